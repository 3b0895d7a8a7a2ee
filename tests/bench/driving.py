"""Nodes on a LAN that has room for thousands, and the program on each that makes the calls."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Self

from tests.bench.peers import Peer
from tests.lab import Lan, Node
from tests.lab.machine import CHECKOUT, PYTHON


class Driver:
    """The program on a node that makes the calls and times them."""

    def __init__(self, node: Node) -> None:
        self._process = node.popen(
            [PYTHON, str(CHECKOUT / "tests/bench/driver.py")], stdin=-1, stdout=-1, stderr=-1, text=True
        )

    def call(self, peer: Peer, calls: Iterable[tuple[str, str]], *, together: bool = False) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        order = {"by": peer.order(), "calls": list(calls), "together": together}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        if not (line := self._process.stdout.readline()):
            sys.exit(self._process.stderr.read())
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        with self._process as process:
            if process.stdin is not None:
                process.stdin.close()


def pods(count: int, name: str = "pod") -> list[str]:
    return [f"{name}-{number}" for number in range(count)]


def lan_of_thousands(lan: Lan) -> None:
    """10.77.0.0/16 in place of the lab's network, which is too small."""
    lan.gateway.ip("addr add 10.77.0.1/16 dev eth0", "addr del 192.168.77.1/24 dev eth0")
    lan.host.ip("addr add 10.77.0.2/16 dev eth0")
    lan.dhcp.restart(
        first="10.77.1.0",
        last="10.77.30.255",
        mask="255.255.0.0",
        router="10.77.0.1",
        dns="10.77.0.1",
        lease="1h",
    )


@contextmanager
def serving(lan: Lan, name: str, number: int) -> Iterator[tuple[Node, Driver]]:
    node = lan.node(
        name, static=False, addresses=[f"10.77.0.{number}/16"], setup=["route add default via 10.77.0.1"]
    )
    node.start_daemon().wait_ready()
    with Driver(node) as driver:
        yield node, driver
