"""What others notice of a takeover and a teardown: nothing at a packet a millisecond, and a TCP stream goes on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from tests.lab import Lan, Machine, Node, eventually
from tests.lab.probe import overruns

pytestmark = pytest.mark.alone

pytestmark = pytest.mark.alone

NODE, HOST = ("192.168.77.11", "fd77::11"), ("192.168.77.2", "fd77::2")
PORT = 7000
LISTEN = (
    f"import socket; s = socket.create_server(('', {PORT})); c, _ = s.accept()\nwhile c.recv(65536): pass"
)
STREAM = f"""
import socket, time
s = socket.create_connection(('{NODE[0]}', {PORT}))
s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
while True:
    s.sendall(b'x' * 1000)
    time.sleep(0.001)
"""


def retransmitted(machine: Machine) -> int:
    lines = machine.run("cat /proc/net/snmp").stdout.splitlines()
    names, values = (line.split() for line in lines if line.startswith("Tcp:"))
    return int(values[names.index("RetransSegs")])


@contextlib.contextmanager
def stream(lan: Lan, node: Node) -> Iterator[None]:
    """A TCP stream from the plain host to the node, a kilobyte a millisecond."""
    listener = node.spawn(["/usr/bin/python3", "-c", LISTEN], "/tmp/listen.log")
    eventually(lambda: f":{PORT}" in node.run("ss -Hltn").stdout, 5, "the node listens")
    sender = lan.host.spawn(["/usr/bin/python3", "-c", STREAM], "/tmp/stream.log")
    eventually(lambda: f":{PORT}" in node.run("ss -Htn state established").stdout, 5, "the stream runs")
    yield
    assert sender.running, lan.host.read("/tmp/stream.log")
    assert listener.running, node.read("/tmp/listen.log")


def undisturbed() -> dict[str, int]:
    """What one takeover and one teardown cost; where the machine was too busy for its packets, once more."""
    for _ in range(3):
        with Lan() as lan:
            before = overruns()
            figures = measured(lan)
            if overruns() == before:
                break
    return figures


def measured(lan: Lan) -> dict[str, int]:
    """Packets sent and lost, and segments sent twice, over one takeover and one teardown."""
    node = lan.node("n1")
    eventually(lambda: all(lan.host.ping(a) for a in NODE), 5, "the node answers")
    before = retransmitted(node) + retransmitted(lan.host)
    with stream(lan, node):
        probes = [lan.host.probe(address, interval_ms=1) for address in NODE]
        probes += [node.probe(address, interval_ms=1) for address in HOST]
        daemon = node.start_daemon().wait_ready()
        node.terwayctl("teardown")
        losses = [probe.stop() for probe in probes]
    daemon.term()
    return {
        "sent": sum(loss.sent for loss in losses),
        "lost": sum(len(loss.lost) for loss in losses),
        "again": retransmitted(node) + retransmitted(lan.host) - before,
    }


def test_nobody_notices() -> None:
    figures = undisturbed()
    assert figures["sent"] > 1000
    assert (figures["lost"], figures["again"]) == (0, 0), figures


@pytest.mark.long
def test_nobody_notices_ten_times_in_a_row() -> None:
    runs = []
    for _ in range(10):
        runs.append(undisturbed())
        print(runs[-1], flush=True)
    assert [(run["lost"], run["again"]) for run in runs] == [(0, 0)] * 10
