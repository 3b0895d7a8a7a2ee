"""Nodes and their pods as a container runtime would have them, and what a runtime does to a pod.

A slot is a pod by name, such as one of a StatefulSet: it is there or not, and comes back under the same
name.  Only one operation at a time works on a slot; those on different slots run at once.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

from tests.lab import Lan, Node, Pod, ShimError
from tests.lab.machine import children
from tests.lab.pod import PLUGIN

CONFIG = '[dhcp]\ntimeout = "8s"\n'
_NOTICED_S = 2.0  # a pod that goes without a DEL is given back by then


@dataclass(slots=True, eq=False)
class Slot:
    """A pod by name: `pod` while it is attached, `leaving` while a runtime still has to take it out."""

    node: Node
    name: str
    pod: Pod | None = None
    leaving: list[Pod] = field(default_factory=list)


class Broken(AssertionError):
    """Something that must not happen did."""


class World:
    """A LAN with nodes and slots.  `rough` is whether something is broken on purpose just now."""

    def __init__(self, lan: Lan, nodes: int, slots: int) -> None:
        self.lan = lan
        self.nodes = [lan.node(f"n{number}", config=CONFIG) for number in range(1, nodes + 1)]
        self.slots = [Slot(node, f"{node.name}-web-{n}") for node in self.nodes for n in range(slots)]
        self.rough = False
        self.excused: set[str] = set()
        self._leaving: dict[str, float] = {}
        self.done: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.slowest = 0.0
        self._lock = threading.Lock()
        for node in self.nodes:
            node.start_daemon().wait_ready()

    def count(self, what: str) -> None:
        with self._lock:
            self.done[what] += 1

    def operate(self, slot: Slot, choice: float, delay: float) -> None:
        """One operation on a slot: `choice` (0 to 1) says which, `delay` (seconds) when a kill strikes."""
        for pod in list(slot.leaving):
            self.leave(slot, pod)
        if slot.pod is None:
            if choice < 0.15:
                self.add_killed(slot, delay)
            else:
                self.add(slot)
        elif choice < 0.45:
            self.delete(slot)
        elif choice < 0.55:
            self.vanish(slot)
        elif choice < 0.65:
            self.replace(slot)
        elif choice < 0.80:
            self.ping(slot)
        else:
            self.check(slot)

    def add(self, slot: Slot) -> None:
        pod = slot.node.pod(slot.name)
        try:
            pod.add()
        except ShimError as error:
            self._refused("ADD", slot, error)
            self._excuse(slot)
            slot.leaving.append(pod)
            return
        slot.pod = pod
        if not self.rough:
            self.slowest = max(self.slowest, pod.seconds)
        self.count("add")

    def add_killed(self, slot: Slot, delay: float) -> None:
        """An ADD whose caller is killed in the middle; the runtime takes the pod out again later."""
        pod = slot.node.pod(slot.name)
        environment = {
            "CNI_COMMAND": "ADD",
            "CNI_CONTAINERID": pod.container_id,
            "CNI_NETNS": f"/run/netns/{pod.netns}",
            "CNI_IFNAME": "eth0",
            "CNI_ARGS": f"K8S_POD_NAMESPACE=default;K8S_POD_NAME={slot.name}",
        }
        pipe = subprocess.PIPE
        with slot.node.popen([PLUGIN], env=environment, stdin=pipe, stdout=pipe, stderr=pipe) as shim:
            assert shim.stdin is not None
            shim.stdin.write(b'{"cniVersion":"1.0.0","name":"terway","type":"cni-terway"}')
            shim.stdin.close()
            time.sleep(delay)  # the moment of death is what is random here
            for pid in children(shim.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            shim.wait(30)
        slot.leaving.append(pod)
        self._excuse(slot)
        self.count("add killed")

    def leave(self, slot: Slot, pod: Pod) -> None:
        """What a runtime does until it works: DEL, and then the namespace goes."""
        try:
            pod.delete()
        except ShimError as error:
            self._refused("DEL", slot, error)
            return
        pod.remove()
        slot.leaving.remove(pod)
        self.count("del")

    def delete(self, slot: Slot) -> None:
        assert slot.pod is not None
        pod, slot.pod = slot.pod, None
        self._excuse(slot)
        slot.leaving.append(pod)
        self.leave(slot, pod)

    def vanish(self, slot: Slot) -> None:
        """The namespace goes, and nobody calls DEL."""
        assert slot.pod is not None
        pod, slot.pod = slot.pod, None
        self._excuse(slot)
        pod.remove()
        self.count("vanish")

    def replace(self, slot: Slot) -> None:
        """A new sandbox of the pod before the old one is taken out."""
        assert slot.pod is not None
        old, slot.pod = slot.pod, None
        slot.leaving.append(old)
        self._excuse(slot)
        self.add(slot)
        self.leave(slot, old)
        self.count("replace")

    def ping(self, slot: Slot) -> None:
        assert slot.pod is not None
        if not self.lan.host.ping(slot.pod.address, count=3) and not self.rough:
            raise Broken(f"{slot.pod.name} does not answer on {slot.pod.address}")
        self.count("ping")

    def check(self, slot: Slot) -> None:
        assert slot.pod is not None
        try:
            slot.pod.check()
        except ShimError as error:
            self._refused("CHECK", slot, error)
        self.count("check")

    def excuse_the_latest(self) -> None:
        since = time.monotonic() - _NOTICED_S
        self.excused.update(name for name, at in list(self._leaving.items()) if at > since)

    def _excuse(self, slot: Slot) -> None:
        """A RELEASE is not answered, so that one sent while the LAN is broken may be lost for good.

        A pod that went a moment before that may be given back within it.
        """
        self._leaving[slot.name] = time.monotonic()
        if self.rough:
            self.excused.add(slot.name)

    def _refused(self, verb: str, slot: Slot, error: ShimError) -> None:
        with self._lock:
            self.failed[f"{verb} {error.code}"] += 1
        if not self.rough:
            raise Broken(f"{verb} of {slot.name} on {slot.node.name}: {error}") from error


class Chaos:
    """What is broken on purpose, each for the time of a part of a round, and healed after it."""

    def __init__(self, world: World, rng: random.Random) -> None:
        self._world = world
        self._rng = rng
        self._repairs: list[float] = []
        self._heal: list[str] = []

    NAMES = ("none", "server", "loss", "cable", "kill", "term", "pull", "bridge", "reload")

    def strike(self, name: str) -> None:
        world, node = self._world, self._rng.choice(self._world.nodes)
        if name in ("pull", "bridge") and not self._may_repair():
            name = "kill"
        world.rough = name != "none"
        if world.rough:
            world.excuse_the_latest()
        world.count(f"chaos {name}")
        assert node.daemon is not None
        match name:
            case "server":
                world.lan.dhcp.stop()
            case "loss":
                world.lan.gateway.run(
                    "nft 'add table netdev loss;"
                    " add chain netdev loss in { type filter hook ingress device eth0 priority 0; };"
                    " add rule netdev loss in numgen random mod 100 < 30 drop'"
                )
            case "cable":
                world.lan.unplug(node)
            case "kill":
                node.daemon.kill9()
                node.start_daemon()
            case "term":
                node.daemon.term()
                node.start_daemon()
            case "pull":
                node.run("ip link set eth0 nomaster")
            case "bridge":
                node.run("ip link del mybr0")
            case "reload":
                node.terwayctl("status", check=False)

    def heal(self) -> None:
        world = self._world
        if not world.lan.dhcp.running:
            world.lan.dhcp.start()
        world.lan.gateway.run("nft delete table netdev loss 2>/dev/null", check=False)
        for node in world.nodes:
            world.lan.replug(node)
            assert node.daemon is not None
            node.daemon.wait_ready(60)
        world.rough = False

    def _may_repair(self) -> bool:
        """The guard gives up after five repairs in a minute, as it should."""
        now = time.monotonic()
        self._repairs = [at for at in self._repairs if at > now - 70]
        if len(self._repairs) >= 2:
            return False
        self._repairs.append(now)
        return True
