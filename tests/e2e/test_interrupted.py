"""Takeover and teardown cut short at every single step: the host is at one end or the other, never between.

And at no moment does it send back what comes from the LAN: switches would think the sender there, and others not reach it.
The steps are counted by a first run.  One node a step, all of them on one LAN and at once.
"""

from __future__ import annotations

import functools
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.lab import Lan, Node, State, eventually

CONFIG = '[host]\nverify_timeout = "{}"\n'
PROGRAM = Path(__file__).with_name("interrupted.py")
SETUP = ["addr add 192.168.77.{} dev eth0", "route add 10.9.0.0/16 via 192.168.77.1 table 100 metric 7"]
ACTIONS = ("setup", "teardown")
BROADCAST = "192.168.77.255"


def node(lan: Lan, number: int, verify_timeout: str = "1s") -> tuple[Node, State]:
    node = lan.node(f"n{number}", config=CONFIG.format(verify_timeout), setup=SETUP[1:])
    return node, node.state()


def run(node: Node, action: str, how: str, step: int) -> int:
    if action == "teardown":
        node.run(["/usr/bin/python3", str(PROGRAM), "setup", "count", "0"])
    done = node.run(["/usr/bin/python3", str(PROGRAM), action, how, str(step)], check=False)
    return int(done.stdout) if how == "count" else done.returncode


def steps(lan: Lan, action: str) -> int:
    return run(node(lan, 0)[0], action, "count", 0)


def is_now(node: Node, before: State) -> bool:
    return node.state() == before


def has_no_table(node: Node) -> bool:
    """Of nftables, which State knows nothing of."""
    return not node.run("nft list tables").stdout


def reachable(lan: Lan, node: Node) -> bool:
    return all(lan.host.ping(address) for address in (f"192.168.77.{number(node)}", f"fd77::{number(node)}"))


def number(node: Node) -> int:
    return 11 + int(node.name.removeprefix("n"))


def each(lan: Lan, action: str, how: str, verify_timeout: str = "1s") -> list[tuple[Node, State]]:
    """A node for every step, each cut short at its own."""
    count = steps(lan, action)
    assert count > 20
    nodes = [node(lan, step, verify_timeout) for step in range(1, count + 1)]
    with ThreadPoolExecutor(4) as pool:
        ended = list(pool.map(lambda item: run(item[0], action, how, int(item[0].name[1:])), nodes))
    expected = {-9, 137} if how == "kill" else {0, 1}
    assert set(ended) <= expected
    return nodes


@contextmanager
def broadcasting(lan: Lan, milliseconds: int) -> Iterator[Callable[[], list[str]]]:
    """The host sends broadcasts all the time; which of them came back to it is told after the end."""
    log = "/var/log/own-frames"
    words = ["tcpdump", "-Z", "root", "-lnei", "eth0", "-Q", "in", f"ether src {lan.host.mac_of('eth0')}"]
    hearing = lan.host.spawn(words, log)
    eventually(lambda: "listening on" in lan.host.read(log), 5.0, "tcpdump listens")
    sending = lan.host.spawn(
        ["ping", "-qb", "-i", str(milliseconds / 1000), BROADCAST], "/var/log/broadcasts"
    )
    own = f"ether src {lan.host.mac_of('eth0')} and broadcast"
    lan.gateway.run(["timeout", "5", "tcpdump", "-Z", "root", "-nc", "1", "-i", "eth0", own])  # one is heard
    try:
        yield lambda: [line for line in lan.host.read(log).splitlines() if f"> {BROADCAST}" in line]
        assert sending.running
        assert hearing.running
    finally:
        for process in (sending, hearing):
            process.signal(signal.SIGTERM)
            process.wait()


@pytest.mark.parametrize("action", ACTIONS)
def test_killed_at_every_step_and_nothing_is_sent_back(lan: Lan, action: str) -> None:
    with broadcasting(lan, 5) as sent_back:
        each(lan, action, "kill", verify_timeout="60s")
        time.sleep(1)  # the thing itself: each stays where it was cut short
    assert sent_back() == []


def test_nothing_is_sent_back_while_it_moves(lan: Lan) -> None:
    node = lan.node("n1")
    with broadcasting(lan, 1) as sent_back:
        daemon = node.start_daemon().wait_ready()
        for _ in range(5):
            node.terwayctl("teardown")
            node.terwayctl("setup", "--yes")
        daemon.term()
    assert sent_back() == []


@pytest.mark.long
@pytest.mark.parametrize("action", ACTIONS)
def test_killed_at_every_step_and_started_again(lan: Lan, action: str) -> None:
    def goes_on(item: tuple[Node, State]) -> None:
        cut, before = item
        daemon = cut.start_daemon().wait_ready(60)
        assert reachable(lan, cut), cut.name
        cut.terwayctl("teardown")
        assert cut.state().diff(before) == [], cut.name
        assert has_no_table(cut), cut.name
        assert reachable(lan, cut), cut.name
        daemon.term()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(goes_on, each(lan, action, "kill")))


@pytest.mark.parametrize("action", ACTIONS)
def test_killed_at_every_step_and_only_the_dead_man_left(lan: Lan, action: str) -> None:
    for cut, before in each(lan, action, "kill"):
        eventually(functools.partial(is_now, cut, before), 30, f"{cut.name} is as it was", 0.2)
        eventually(functools.partial(has_no_table, cut), 5, f"{cut.name} has nothing left")
        assert reachable(lan, cut), cut.name


@pytest.mark.parametrize("action", ACTIONS)
def test_an_error_at_every_step(lan: Lan, action: str) -> None:
    for cut, before in each(lan, action, "error"):
        assert cut.state().diff(before) == [], cut.name
        assert has_no_table(cut), cut.name
        assert reachable(lan, cut), cut.name
