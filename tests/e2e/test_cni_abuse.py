"""What runtimes and others do to the daemon when nothing goes well: random, at once, killed, restarted, garbage."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import signal
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor, as_completed

from tests.e2e import shared
from tests.lab import Lan, Node, eventually
from tests.lab.machine import PYTHON
from tests.lab.pod import PLUGIN, Pod

CONTAINERS, CALLS, THREADS = 40, 200, 12
KILLED = 0.2  # of the calls


class Container:
    """A container whose runtime owes a DEL for every ADD that did not succeed, and repeats what failed."""

    def __init__(self, pod: Pod) -> None:
        self.pod = pod
        self.lives = False

    def step(self, verb: str, dice: random.Random) -> None:
        killed_after = dice.uniform(0, 0.15) if dice.random() < KILLED else None
        if verb == "ADD" and self.lives:
            verb = "DEL"
        if verb == "ADD":
            self.lives = self.call("ADD", killed_after) == 0
        if verb == "DEL" or not self.lives:
            self.call("DEL", killed_after)
            eventually(lambda: self.call("DEL") == 0, 60.0, f"{self.pod.name} is deleted", 0.2)
            self.lives = False

    def call(self, verb: str, killed_after: float | None = None) -> int:
        """The plugin's exit code; it is killed after so many seconds, if it has not ended by then."""
        config = json.dumps({"cniVersion": "1.0.0", "name": "terway", "type": "cni-terway"})
        pipe, null = subprocess.PIPE, subprocess.DEVNULL
        with self.pod.node.popen(
            [PLUGIN],
            env=self.pod.cni_environment(verb),
            stdin=pipe,
            stdout=null,
            stderr=null,
            start_new_session=True,
        ) as shim:
            with contextlib.suppress(subprocess.TimeoutExpired):
                shim.communicate(config.encode(), killed_after if killed_after is not None else 120)
                return int(shim.returncode)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(shim.pid, signal.SIGKILL)
            return int(shim.wait())


lan = shared.lan
node = shared.node('[dhcp]\ntimeout = "10s"\n')


def test_what_is_left_after_a_storm_is_what_lives(lan: Lan, node: Node) -> None:
    """200 calls for 40 containers, some killed, the daemon restarted three times meanwhile, twice by a crash."""
    seed = int.from_bytes(os.urandom(4), "big")
    print(f"seed {seed}")  # shown when it fails
    dice = random.Random(seed)
    containers = [Container(node.pod(f"web-{number}")) for number in range(CONTAINERS)]
    calls = [
        (container, dice.choice(("ADD", "ADD", "DEL"))) for container in containers * (CALLS // CONTAINERS)
    ]
    dice.shuffle(calls)
    of = {id(c): [verb for one, verb in calls if one is c] for c in containers}

    def live(container: Container) -> None:
        own = random.Random(dice.random())
        for verb in of[id(container)]:
            container.step(verb, own)

    with ThreadPoolExecutor(THREADS) as pool:
        running = [pool.submit(live, container) for container in containers]
        for number in range(1, 4):
            for through in itertools.islice(as_completed(running, 120), number * 8):
                through.result()
            daemon = node.daemon
            assert daemon is not None
            if number % 2:
                daemon.kill9()
            else:
                daemon.term()
            node.start_daemon().wait_ready()
        for future in running:
            future.result(120)

    living = {container.pod.pod_name: container for container in containers if container.lives}
    assert living
    assert {pod["name"] for pod in node.status()["pods"]} == set(living)
    addresses = {str(container.pod.address) for container in living.values()}
    assert len(addresses) == len(living)
    eventually(lambda: {str(one.address) for one in lan.dhcp.leases()} == addresses, 20.0, "leases of them")
    assert len(node.veths()) == len(living)
    assert node.guarded_ports() == set(node.veths())
    assert rows(node) == {(c.pod.container_id, str(c.pod.address)) for c in living.values()}
    for container in containers:
        links = [link["ifname"] for link in container.pod.ip_json("link show")]
        assert links == (["lo", "eth0"] if container.lives else ["lo"])
    assert all(lan.host.ping(address) for address in addresses)
    for container in living.values():
        container.step("DEL", dice)
    assert node.veths() == []
    assert node.guarded_ports() == set()
    eventually(lambda: lan.dhcp.leases() == [], 10.0, "no lease is left")
    assert rows(node) == set()


ROWS = """
import json, sqlite3
db = sqlite3.connect("file:/var/lib/terwayd/state.db?mode=ro", uri=True)
print(json.dumps(db.execute("SELECT container_id, lease FROM attachments").fetchall()))
"""


def rows(node: Node) -> set[tuple[str, str]]:
    """Container and address of every row of the state database."""
    found = json.loads(node.run([PYTHON, "-c", ROWS]).stdout)
    return {(name, json.loads(lease)["address"].split("/")[0] if lease else "") for name, lease in found}


def test_others_are_served_whatever_comes(lan: Lan, node: Node) -> None:
    """Garbage, a configuration of 1 MiB, halves of messages, silence, 500 connections: and a pod meanwhile.

    Who says nothing whole is left after half a minute, see test_varlink_server.
    """
    huge = json.dumps({"x": "y" * ((1 << 20) - 100), "name": 7})
    cni = {"method": "io.terway.Cni", "parameters": {"environment": {"CNI_COMMAND": "ADD"}, "stdin": huge}}
    sent = [
        b"garbage\0",
        b"\0",
        b'{"method":7}\0',
        b'{"method":"io.terway.Nothing"}\0',
        b'{"method":"io.terway.Cni","parameters":{"environment":{},"stdin":"{}"}}\0',
        json.dumps(cni).encode() + b"\0",
    ]
    with contextlib.ExitStack() as stack:

        def connect() -> socket.socket:
            connection = stack.enter_context(socket.socket(socket.AF_UNIX))
            connection.settimeout(60)
            connection.connect(str(node.socket))
            return connection

        connections = [connect() for _ in range(500)]
        for number, connection in enumerate(connections[:300]):
            connection.sendall(sent[number % len(sent)])
        for connection in connections[300:400]:
            connection.sendall(b'{"method":"io.terway.Status","para')
        pod = node.pod("meanwhile")
        pod.add()
        assert lan.host.ping(pod.address)
        for connection in connections[:300]:
            assert b'"error"' in connection.recv(1 << 16)
        with contextlib.suppress(ConnectionError):
            connections[0].sendall(b"x" * (5 << 20))  # more than a message may be: left alone by the server
            while connections[0].recv(1 << 16):
                pass
        pod.check()
        pod.delete()
    assert node.status()["state"] == "ready"
