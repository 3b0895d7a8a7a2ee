"""What must be so whenever nothing is going on: kernel, store, DHCP server and API tell the same."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from tests.lab import Node
from tests.lab.machine import PYTHON
from tests.soak.world import Broken, World

LOCAL = {"twdhcp", "twdhcp0"}
ROWS = """
import json, sqlite3
db = sqlite3.connect("/var/lib/terwayd/state.db", timeout=5)
rows = db.execute("SELECT container_id FROM attachments WHERE lease IS NOT NULL")
print(json.dumps([container for container, in rows]))
"""


@dataclass(frozen=True, slots=True)
class Size:
    """What a daemon takes: resident kilobytes, open descriptors."""

    kilobytes: int
    descriptors: int


def size(node: Node) -> Size:
    assert node.daemon is not None
    pid = node.daemon.pid
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    resident = next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))
    return Size(resident, len(list(Path(f"/proc/{pid}/fd").iterdir())))


def check(world: World) -> bool:
    """Raise Broken with the first thing that does not fit, or return True."""
    live = {slot.pod.mac: slot.pod for slot in world.slots if slot.pod is not None}
    for node in world.nodes:
        mine = {mac: pod for mac, pod in live.items() if pod.node is node}
        ports = {pod.port for pod in mine.values() if pod.result}
        found = {link["ifname"] for link in node.ip_json("link") if link["ifname"].startswith("tw")}
        _same(f"{node.name}: interfaces", ports | LOCAL, found)
        leases = {lease["mac"]: lease for lease in node.api("Leases")["leases"]}
        _same(f"{node.name}: leases of the API", set(mine), set(leases))
        _same(f"{node.name}: states", {"bound"}, {lease["state"] for lease in leases.values()} | {"bound"})
        for mac, pod in mine.items():
            _same(f"{pod.name}: address", {str(pod.address)}, {leases[mac]["address"].split("/")[0]})
        _same(f"{node.name}: rows", {pod.container_id for pod in mine.values()}, rows(node))
        _same(f"{node.name}: ports with filters", ports, node.guarded_ports())
        for pod in mine.values():
            if pod.result and str(int(pod.address)) not in node.filter_of(pod.port):
                raise Broken(f"{pod.name}: the filter of its port does not know {pod.address}")
        status = node.status()
        _same(f"{node.name}: state", {"ready"}, {status["state"]})
    served = {lease.mac: str(lease.address) for lease in world.lan.dhcp.leases()}
    if missing := {mac for mac, pod in live.items() if served.get(mac) != str(pod.address)}:
        raise Broken(f"the server does not know the leases of {missing}")
    gone = {lease.hostname for lease in world.lan.dhcp.leases() if lease.mac not in live}
    if left := gone - world.excused:
        raise Broken(f"the server still has leases of {sorted(left)}, whose pods are gone")
    world.excused &= gone
    return True


def rows(node: Node) -> set[str]:
    """The containers that the state database knows, with a lease each; read as the node sees the file."""
    return set(json.loads(node.run([PYTHON, "-c", ROWS]).stdout))


def _same(what: str, expected: set[str], found: set[str]) -> None:
    if expected != found:
        raise Broken(f"{what}: missing {sorted(expected - found)}, too many {sorted(found - expected)}")
