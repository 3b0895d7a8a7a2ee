"""How long terwayctl takes with 250 pods, beside the loading of typer alone: what it need not load, it does not."""

from __future__ import annotations

import statistics
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.lab import DhcpConfig, Lan

PODS = 250
# The network has no more addresses than these; .11 is the node's.
RANGE = DhcpConfig(
    first="192.168.77.12", last="192.168.77.254", extra=("--dhcp-range=192.168.77.3,192.168.77.10",)
)
TYPER = ("/usr/bin/python3", "-c", "import typer")
ON_A_TERMINAL = ("script", "-qec", "terwayctl status", "/dev/null")
AT_MOST = {
    ("/usr/bin/terwayctl", "status"): 1.5,
    ON_A_TERMINAL: 1.5,
    ("/usr/bin/terwayctl", "status", "--json"): 1.2,
    ("/usr/bin/terwayctl", "status", "--brief"): 1.2,
}


@pytest.mark.long
def test_start_times() -> None:
    with Lan(RANGE) as lan:
        node = lan.node("n1")
        node.start_daemon().wait_ready()
        pods = [node.pod(f"web-{number}") for number in range(PODS)]
        with ThreadPoolExecutor(4) as executor:
            list(executor.map(lambda pod: pod.add(), pods))
        took: dict[tuple[str, ...], list[float]] = {command: [] for command in (TYPER, *AT_MOST)}
        for _ in range(15):  # by turns, so that the machine's load is the same for all
            for command, times in took.items():
                begin = time.perf_counter()
                done = node.run(list(command), env={"TERM": "xterm"})
                times.append(time.perf_counter() - begin)
                assert command == TYPER or "brief" in command[-1] or f"web-{PODS - 1}" in done.stdout
        middle = {command: statistics.median(times) for command, times in took.items()}
        for command, factor in AT_MOST.items():
            print(
                f"{' '.join(command):50} {middle[command] * 1000:4.0f} ms, {middle[command] / middle[TYPER]:.2f} of typer's"
            )
            assert middle[command] <= factor * middle[TYPER], f"{command}: {middle}"
