"""What the service manager's watchdog is told: that event loop and netlink thread answer, and nothing else."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from tests.lab import Lan, Node, eventually
from tests.lab.machine import PYTHON
from tests.lab.varlink import ApiError

ALLOWED = 2.0  # seconds without a ping, after which systemd would kill the daemon
ONCE = """
import socket
with socket.create_server(("", 6443)) as listener:
    print("listening", flush=True)
    listener.accept()
"""


class Pings:
    """The times of the daemon's pings, as systemd gets them."""

    def __init__(self, node: Node) -> None:
        self.last = 0.0
        self.longest = 0.0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(node.path("/run/notify")))
        self._thread = threading.Thread(target=self._receive)
        self._thread.start()

    def _receive(self) -> None:
        while told := self._socket.recv(4096):
            if b"WATCHDOG=1" in told:
                now = time.monotonic()
                self.longest, self.last = max(self.longest, now - (self.last or now)), now

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()


@contextmanager
def watched(lan: Lan, config: str = "") -> Iterator[tuple[Node, Pings]]:
    node = lan.node("n1", config)
    with closing(Pings(node)) as pings:
        usec = str(int(ALLOWED * 1e6))
        node.start_daemon(env={"NOTIFY_SOCKET": "/run/notify", "WATCHDOG_USEC": usec}).wait_ready()
        eventually(lambda: pings.last, 5, "a ping")
        yield node, pings


def test_no_ping_while_the_netlink_thread_hangs(lan: Lan) -> None:
    with watched(lan) as (node, pings):
        node.api("Teardown", {"force": True})
        index = node.ip_json("link show eth0")[0]["ifindex"]
        fifo = node.path(f"/run/systemd/netif/links/{index}")
        fifo.parent.mkdir(parents=True)
        os.mkfifo(fifo)  # a file of the NIC's manager, read in that thread, whose reader waits for ever
        with pytest.raises(TimeoutError):
            node.api("Plan", {"action": "setup"}, timeout=1)
        eventually(lambda: time.monotonic() - pings.last > ALLOWED, 4 * ALLOWED, "the pings end")
        assert node.api("org.varlink.service.GetInfo")["product"] == "terwayd", "the event loop does answer"
        fifo.write_text("")
        eventually(lambda: time.monotonic() - pings.last < ALLOWED, 4 * ALLOWED, "the pings go on")


@pytest.mark.alone
def test_a_takeover_that_takes_long_is_no_hang(lan: Lan) -> None:
    """It waits twice the watchdog's time for somebody to answer, and is then undone."""
    config = f'[host]\nverify = ["tcp:{lan.gateway_ip}:6443"]\nverify_timeout = "{2 * ALLOWED:.0f}s"\n'
    with watched(lan, config) as (node, pings):
        node.api("Teardown", {"force": True})
        with lan.gateway.popen([PYTHON, "-c", ONCE], stdout=subprocess.PIPE) as once:
            assert once.stdout is not None
            assert once.stdout.readline() == b"listening\n"
            begun = time.monotonic()
            with pytest.raises(ApiError, match="answered before but does not"):
                node.api("Setup", {"confirm": False})
        ended = time.monotonic()
        assert ended - begun > 2 * ALLOWED
        eventually(lambda: pings.last > ended, 2 * ALLOWED, "the next ping")
        assert pings.longest < ALLOWED
