"""`python3 -m tests.bench.filtered [ROUNDS [PODS...]] [--program]`: what the filter costs a pod that floods the LAN.

Packets a second that come to the NIC of a host of the LAN, with the filters as they are and without them, in turns
of one run.  What comes is dropped at the NIC: the host's work is on the same processor, and would hide the filter's part.
With `--program` a program takes it from a socket, as one would in life.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence

from tests.bench.driving import Driver, lan_of_thousands, pods, serving
from tests.bench.peers import ours
from tests.lab import Lan, Node
from tests.lab.machine import CHECKOUT, PYTHON

COUNTS = (1, 250)
ROUNDS, SECONDS = 40, 0.25
TARGET = 0.97


def measured(
    rounds: int = ROUNDS, counts: Sequence[int] = COUNTS, *, program: bool = False
) -> dict[int, dict[str, list[float]]]:
    """Packets a second by number of pods, "on" and "off"."""
    with Lan() as lan:
        lan_of_thousands(lan)
        with serving(lan, "n1", 11) as (node, driver), received_by_program(lan) if program else dropped(lan):
            found, there = {}, 0
            for count in counts:
                attach(driver, pods(count)[there:])
                there = count
                found[count] = in_turns(lan, node, rounds)
            return found


@contextlib.contextmanager
def dropped(lan: Lan) -> Iterator[None]:
    lan.host.run(
        "nft 'add table netdev x; add chain netdev x y { type filter hook ingress device eth0 priority 0; };"
        " add rule netdev x y udp dport 9 drop'"
    )
    yield


@contextlib.contextmanager
def received_by_program(lan: Lan) -> Iterator[None]:
    script = str(CHECKOUT / "tests/bench/receiver.py")
    with lan.host.popen([PYTHON, "-IS", script], stdout=subprocess.PIPE) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == b"ready\n"
        try:
            yield
        finally:
            program.kill()


def attach(driver: Driver, names: list[str]) -> None:
    for start in range(0, len(names), 50):
        driver.call(ours(), [("ADD", name) for name in names[start : start + 50]], together=True)


def in_turns(lan: Lan, node: Node, rounds: int) -> dict[str, list[float]]:
    assert node.daemon is not None
    settings = [filters(node, on=on) for on in (False, True)]
    rates: dict[str, list[float]] = {"on": [], "off": []}
    node.daemon.process.signal(signal.SIGSTOP)  # it would put back what is taken away

    def have(on: bool) -> None:
        for tool, script in settings[on].items():
            node.run([tool, "-batch", "-"], input=script)

    try:
        for number in range(2 * rounds):
            on = bool((number + number // 2) % 2)  # off, on, on, off, ...
            have(on)
            rates["on" if on else "off"].append(flood(lan, node))
        have(True)
    finally:
        node.daemon.process.signal(signal.SIGCONT)
    return rates


def filters(node: Node, *, on: bool) -> dict[str, str]:
    """What `tc -batch` and `bridge -batch` do to have all ports as they are, or as with `antispoof = false`."""
    programs, stations = "", ""
    for known in node.status()["pods"]:
        port, mac = known["host_ifname"], known["mac"]
        programs += f"qdisc replace dev {port} clsact\n"
        stations += f"link set dev {port} learning {'off' if on else 'on'}\n"
        stations += f"fdb replace {mac} dev {port} master {'static sticky' if on else 'dynamic'}\n"
        if not on:
            programs += f"qdisc del dev {port} clsact\n"
            continue
        for line in node.filter_of(port).splitlines():
            found = re.search(r"pref (\d+) .*bytecode ('.*')", line)
            assert found is not None
            priority, code = found.groups()
            verdicts = "da" if "direct-action" in line else ""
            programs += (
                f"filter replace dev {port} ingress prio {priority} handle 1 bpf {verdicts} bytecode {code}\n"
            )
    return {"tc": programs, "bridge": stations}


def flood(lan: Lan, node: Node) -> float:
    script = str(CHECKOUT / "tests/bench/sender.py")
    before = received(lan)
    words = ["nsenter", "--net=/run/netns/pod-0", PYTHON, "-IS", script, "10.77.0.2", str(SECONDS)]
    seconds = float(node.run(words).stdout.split()[1])
    return (received(lan) - before) / seconds


def received(lan: Lan) -> int:
    return int(lan.host.run("cat /sys/class/net/eth0/statistics/rx_packets").stdout)


def ratio(rates: dict[str, list[float]]) -> float:
    """On to off: the median of each turn's, so that what else the machine does weighs on both."""
    return statistics.median(on / off for on, off in zip(rates["on"], rates["off"], strict=True))


def main() -> None:
    asked = argparse.ArgumentParser()
    asked.add_argument("rounds", type=int, nargs="?", default=ROUNDS)
    asked.add_argument("pods", type=int, nargs="*", default=COUNTS)
    asked.add_argument("--program", action="store_true")
    order = asked.parse_args()
    found = measured(order.rounds, order.pods, program=order.program)
    for count, rates in found.items():
        on, off = (statistics.median(rates[what]) for what in ("on", "off"))
        print(
            f"{count:4} pods: {on:9.0f} packets/s with the filter, {off:9.0f} without, ratio {ratio(rates):.3f}"
        )
    print(json.dumps({count: ratio(rates) for count, rates in found.items()}))
    sys.exit(any(ratio(rates) < TARGET for rates in found.values()))


if __name__ == "__main__":
    main()
