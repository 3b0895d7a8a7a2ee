"""A real LAN on one machine, made of namespaces: a switch, a gateway with dnsmasq, hosts, nodes.

    with Lan() as lan:
        node = lan.node("n1")
        node.start_daemon().wait_ready()
        pod = node.pod("web-0")
        pod.add()
        assert lan.host.ping(pod.address)

Nothing of it has a name on the real machine, and the kernel removes all of it when the process
that made it ends, however it ends.  Needs root, unshare, nsenter, ip, ping and dnsmasq.
"""

from __future__ import annotations

from tests.lab.dhcp import DhcpConfig, DhcpServer, Lease, Message
from tests.lab.errors import CommandError, LabError, eventually
from tests.lab.lan import Lan
from tests.lab.machine import Machine, Place
from tests.lab.node import Daemon, Node
from tests.lab.pod import Pod, ShimError
from tests.lab.probe import Loss, Probe
from tests.lab.state import State
from tests.lab.varlink import ApiError

__all__ = [
    "ApiError",
    "CommandError",
    "Daemon",
    "DhcpConfig",
    "DhcpServer",
    "LabError",
    "Lan",
    "Lease",
    "Loss",
    "Machine",
    "Message",
    "Node",
    "Place",
    "Pod",
    "Probe",
    "ShimError",
    "State",
    "eventually",
]
