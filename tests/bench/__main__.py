"""`make bench [ROUNDS=60]`: medians, 95th percentiles and ratios, and the same as JSON in build/bench.json."""

from __future__ import annotations

import json
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.bench.driving import lan_of_thousands, pods, serving
from tests.bench.peers import Peer, ours, peers
from tests.lab import Lan, Node, eventually
from tests.lab.machine import CHECKOUT, PYTHON

AT_ONCE, BURSTS = 50, 5
FEW, MANY = 10, 500  # pods that are there already
RENEWING, RENEW_S, FLOOD_S, FLOODS = 250, 5, 1.5, 6
TARGETS = {
    "ADD : netavark+dhcp-proxy": 0.60,
    "ADD : bridge+host-local": 1.0,
    "DEL : netavark+dhcp-proxy": 0.40,
    f"{AT_ONCE} ADD at once : bridge+host-local": 1.0,
    f"{AT_ONCE} DEL at once : bridge+host-local": 1.0,
    f"ADD p95 with {MANY} pods : with {FEW}": 1.3,
}
FLOOD_TARGET = 0.98
Figures = dict[str, dict[str, list[float]]]


def in_turns(lan: Lan, others: list[Peer], rounds: int) -> tuple[Figures, dict[str, int]]:
    """One after the other, then fifty at once; with how many leases each gave back."""
    mine, released = ours(), dict.fromkeys([ours().name, *(peer.name for peer in others)], 0)
    figures: Figures = {name: {} for name in released}

    def note(peer: Peer, what: str, seconds: list[float]) -> None:
        figures[peer.name].setdefault(what, []).extend(seconds)

    def before_and_after(
        peer: Peer, calls: list[tuple[str, str]], *, together: bool = False
    ) -> dict[str, Any]:
        count = len(lan.dhcp.messages("DHCPRELEASE"))
        answer = driver.call(peer, calls, together=together)
        if calls[0][0] == "DEL" and peer is mine:
            wanted = count + len(calls)
            eventually(lambda: len(lan.dhcp.messages("DHCPRELEASE")) >= wanted, 5, "each lease is given back")
        released[peer.name] += len(lan.dhcp.messages("DHCPRELEASE")) - count
        return answer

    with serving(lan, "n1", 11) as (node, driver):
        for peer in others:
            peer.prepare(node)
        everybody = [mine, *others]
        for number in range(rounds):
            turn = [peer for peer in everybody if number < max(2, rounds * peer.share)]
            for peer in turn if number % 2 else turn[::-1]:
                for command in ("ADD", "DEL"):
                    call = (command, f"pod-{number % AT_ONCE}")
                    note(peer, command, before_and_after(peer, [call])["each"])
        for number in range(BURSTS):
            turn = [peer for peer in everybody if peer.share == 1]
            for peer in turn if number % 2 else turn[::-1]:
                for command in ("ADD", "DEL"):
                    calls = [(command, pod) for pod in pods(AT_ONCE)]
                    answer = before_and_after(peer, calls, together=True)
                    note(peer, f"{AT_ONCE} {command} at once", [answer["all"]])
    return figures, released


def with_many(lan: Lan, rounds: int) -> Figures:
    """ADD where few pods are, and where many are, in turns."""
    mine = ours()
    with serving(lan, "n2", 12) as (_, few), serving(lan, "n3", 13) as (_, many):
        few.call(mine, [("ADD", pod) for pod in pods(FEW, "there")], together=True)
        there = pods(MANY, "there")
        for start in range(0, MANY, AT_ONCE):
            many.call(mine, [("ADD", pod) for pod in there[start : start + AT_ONCE]], together=True)
        figures: Figures = {f"terwayd, {count} pods": {"ADD": [], "DEL": []} for count in (FEW, MANY)}
        for number in range(rounds):
            turn = [(FEW, few), (MANY, many)]
            for count, driver in turn if number % 2 else turn[::-1]:
                for command in ("ADD", "DEL"):
                    answer = driver.call(mine, [(command, f"pod-{number % AT_ONCE}")])
                    figures[f"terwayd, {count} pods"][command] += answer["each"]
    return figures


def flood(lan: Lan) -> dict[str, Any]:
    """Packets a second from a pod to the LAN, with the daemon busy renewing and with it stopped, in turns."""
    times = (f"--dhcp-option-force=58,{RENEW_S}i", "--dhcp-option-force=59,600i")
    lan.dhcp.restart(extra=times)
    with serving(lan, "n4", 14) as (node, driver):
        for start in range(0, RENEWING, AT_ONCE):
            calls = [("ADD", pod) for pod in pods(RENEWING)[start : start + AT_ONCE]]
            driver.call(ours(), calls, together=True)
        sink = "import socket, time; s = socket.socket(2, 2); s.bind(('', 9)); time.sleep(600)"
        process = lan.host.spawn([PYTHON, "-c", sink], "/var/log/sink.log")
        daemon = node.daemon
        assert daemon is not None
        rates: dict[str, list[float]] = {"busy": [], "stopped": []}
        renewals = []
        try:
            for number in range(2 * FLOODS):
                busy = bool((number + number // 2) % 2)  # stopped, busy, busy, stopped, ...
                daemon.process.signal(signal.SIGCONT if busy else signal.SIGSTOP)
                if busy:
                    time.sleep(1.0)  # what fell due meanwhile is no part of the steady state
                asked = len(lan.dhcp.messages("DHCPREQUEST"))
                rates["busy" if busy else "stopped"].append(_flood(lan, node))
                if busy:
                    renewals.append((len(lan.dhcp.messages("DHCPREQUEST")) - asked) / FLOOD_S)
        finally:
            daemon.process.signal(signal.SIGCONT)
            process.signal(signal.SIGTERM)
    return {**rates, "renewals a second": renewals}


def _flood(lan: Lan, node: Node) -> float:
    """Packets a second that the host of the LAN received."""
    before = _received(lan)
    script = str(CHECKOUT / "tests/bench/sender.py")
    words = ["nsenter", "--net=/run/netns/pod-0", PYTHON, "-IS", script, "10.77.0.2", str(FLOOD_S)]
    seconds = float(node.run(words).stdout.split()[1])
    return (_received(lan) - before) / seconds


def _received(lan: Lan) -> int:
    return int(lan.host.run("cat /sys/class/net/eth0/statistics/rx_packets").stdout)


def p95(values: list[float]) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * 0.95))]


def ratios(figures: Figures) -> dict[str, float]:
    """Ours to each peer's, by medians; and the 95th percentiles with many pods and with few."""
    found = {}
    mine = figures[ours().name]
    for name, kinds in figures.items():
        for kind in kinds if name != ours().name and "pods" not in name else ():
            found[f"{kind} : {name}"] = statistics.median(mine[kind]) / statistics.median(kinds[kind])
    few, many = (figures[f"terwayd, {count} pods"]["ADD"] for count in (FEW, MANY))
    found[f"ADD p95 with {MANY} pods : with {FEW}"] = p95(many) / p95(few)
    return found


def show(figures: Figures, found: dict[str, float], flooded: dict[str, Any]) -> None:
    print(f"\n{'milliseconds, process start included':40}{'n':>5}{'p50':>9}{'p95':>9}")
    for name, kinds in figures.items():
        for kind, values in kinds.items():
            middle, high = statistics.median(values) * 1000, p95(values) * 1000
            print(f"{name:22}{kind:18}{len(values):5}{middle:9.1f}{high:9.1f}")
    print(f"\n{'ratio':54}{'':>5}{'at most':>9}")
    for what, value in found.items():
        target = TARGETS.get(what)
        told = f"{target:9.2f}  {'' if value <= target else 'MISSED'}" if target else ""
        print(f"{what:54}{value:5.2f}{told}")
    print(f"\npackets a second, pod to LAN ({FLOODS} times {FLOOD_S} s each, in turns)")
    busy, stopped = (statistics.median(flooded[key]) for key in ("busy", "stopped"))
    renewals = statistics.median(flooded["renewals a second"])
    print(f"  daemon renewing {RENEWING} leases, {renewals:.0f} a second{busy:16.0f}")
    print(f"  daemon stopped{stopped:36.0f}")
    verdict = "" if busy / stopped >= FLOOD_TARGET else "  MISSED"
    print(f"  ratio, at least {FLOOD_TARGET}{busy / stopped:33.3f}{verdict}")


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    candidates = peers()
    missing = {peer.name: peer.why for peer in candidates if peer.why}
    for name, why in missing.items():
        print(f"missing: {name}: {why}")
    with Lan() as lan:
        lan_of_thousands(lan)
        figures, released = in_turns(lan, [peer for peer in candidates if not peer.why], rounds)
        print("leases given back, as seen at the DHCP server:", json.dumps(released))
        figures |= with_many(lan, rounds)
        flooded = flood(lan)
    found = ratios(figures)
    show(figures, found, flooded)
    out = Path("build", "bench.json")
    out.parent.mkdir(exist_ok=True)
    told = {
        "seconds": figures,
        "ratios": found,
        "targets": TARGETS,
        "flood": flooded,
        "flood target": FLOOD_TARGET,
        "released": released,
        "missing": missing,
    }
    out.write_text(json.dumps(told, indent=1) + "\n")
    print(f"\nall of it: {out}")


if __name__ == "__main__":
    try:
        main()
    except subprocess.TimeoutExpired as error:
        sys.exit(str(error))
