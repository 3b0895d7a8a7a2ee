"""What attaching a pod needs of the host, and what comes of it.  Pure."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address

from terwayd.dhcp.lease import Lease
from terwayd.model import Link
from terwayd.pods.identity import Attachment, host_mac
from terwayd.pods.routes import Node, PodRoute


@dataclass(frozen=True, slots=True)
class Attached:
    """An attachment that is complete, with what its pod has."""

    attachment: Attachment
    lease: Lease
    routes: tuple[PodRoute, ...]
    mtu: int
    bridge_mac: str

    @property
    def host_mac(self) -> str:
        return host_mac(self.attachment)


@dataclass(frozen=True, slots=True)
class Lan:
    """What attaching needs of the host: the bridge, and the node's own place on the LAN with its prefix length.

    `own` are all addresses that the node has there, `gateways` all that it goes through.
    """

    bridge: Link
    node: Node
    prefix: int = 24
    own: frozenset[IPv4Address] = frozenset()
    gateways: frozenset[IPv4Address] = frozenset()

    def against(self, ip: IPv4Address) -> str:
        """Why no pod can have `ip`, "" when one can."""
        if ip in self.own:
            return "which is this node's own"
        return "which is the gateway's" if ip in self.gateways else ""
