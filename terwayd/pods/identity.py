"""Who a pod is on the LAN: its MAC, its DHCP client identifier, its host name.

All of them are made of the network's name, the pod's namespace and name and the interface, so that
the same pod is the same client after a restart, on another node, after a reboot.  A container that
is no pod of Kubernetes has a name that is its own on this node only: the node is mixed in.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv4Network

from terwayd.config import DhcpConfig
from terwayd.dhcp.messages import Identity

Key = tuple[str, str, str]
"""What CNI tells attachments apart by: network name, container ID, interface name."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """One interface of one pod, as it was asked for, and what it is on the LAN.

    `namespace` and `name` are empty for a container that has none; `netns` is the runtime's path,
    kept word for word for the results.
    """

    network: str
    container_id: str
    ifname: str
    netns: str
    namespace: str
    name: str
    host_ifname: str
    mac: str
    client_id: str
    hostname: str
    service_cidrs: tuple[IPv4Network, ...] = ()
    antispoof: bool = True

    @property
    def key(self) -> Key:
        return (self.network, self.container_id, self.ifname)

    @property
    def same_pod(self) -> str:
        """Equal for two sandboxes of one pod: the DHCP server takes them for one client.

        A server goes by the client identifier where there is one, whatever the MAC (RFC 2131 section 4.2).
        """
        return self.client_id or self.mac

    def __str__(self) -> str:
        return name_of(self.namespace, self.name, self.container_id)

    def identity(self, dhcp: DhcpConfig) -> Identity:
        return Identity(
            mac=bytes.fromhex(self.mac.replace(":", "")),
            client_id=bytes.fromhex(self.client_id) if self.client_id else None,
            hostname=self.hostname or None,
            vendor_class=dhcp.vendor_class or None,
            fqdn=dhcp.hostname == "fqdn",
            request=dhcp.request,
        )


@dataclass(frozen=True, slots=True)
class Wish:
    """What was asked for with an ADD; what is empty was not.

    `address` comes with whether its prefix length is asked for too; `static` is to use it without DHCP.
    """

    namespace: str = ""
    name: str = ""
    mac: str = ""
    address: tuple[IPv4Interface, bool] | None = None
    static: bool = False
    hostname: str = ""
    service_cidrs: tuple[IPv4Network, ...] = ()
    antispoof: bool = True


@dataclass(frozen=True, slots=True)
class Policy:
    """What [dhcp] and [pods] of the configuration say of identities; `node` is this node's own ID."""

    node: str
    client_id: str = "pod"
    mac: str = "stable"
    hostname: bool = True


def attachment(policy: Policy, key: Key, wish: Wish, *, netns: str, random: bytes = b"") -> Attachment:
    """The attachment of `key`; `random` is what a random MAC is made of."""
    network, container_id, ifname = key
    namespace, name = wish.namespace, wish.name
    scope = (network, namespace, name) if namespace else (network, policy.node, name)
    if not name or policy.client_id == "container":
        scope = (network, policy.node, container_id)
    own = _digest("pod", *scope, ifname)
    return Attachment(
        network=network,
        container_id=container_id,
        ifname=ifname,
        netns=netns,
        namespace=namespace,
        name=name,
        host_ifname=host_ifname(key),
        mac=wish.mac or _mac(_digest("mac", random.hex()) if policy.mac == "random" else own),
        client_id="" if policy.client_id == "mac" else _client_id(own).hex(),
        hostname=host_name(wish.hostname or name) if policy.hostname or wish.hostname else "",
        service_cidrs=wish.service_cidrs,
        antispoof=wish.antispoof,
    )


def host_ifname(key: Key) -> str:
    """The name of the host's end of the veth pair of an attachment."""
    return "tw" + _digest("veth", *key).hex()[:12]


def is_host_end(name: str) -> bool:
    """Whether an interface is one that `host_ifname` names."""
    return re.fullmatch(r"tw[0-9a-f]{12}", name) is not None


def name_of(namespace: str, name: str, container_id: str) -> str:
    """What a pod is called where it is told of."""
    name = name or short_id(container_id)
    return f"{namespace}/{name}" if namespace else name


def short_id(container_id: str) -> str:
    """The ID as it is, or the first 12 digits where it is a digest, as runtimes show it."""
    return container_id[:12] if re.fullmatch(r"[0-9a-f]{64}", container_id) else container_id


def host_mac(attachment: Attachment) -> str:
    """The MAC of the host's end of the veth pair: nobody on the LAN ever sees it."""
    return _mac(_digest("host", attachment.host_ifname))


def host_name(name: str) -> str:
    """`name` as a host name of RFC 1123: at most 63 letters, digits and hyphens; "" when nothing is left."""
    return re.sub(r"[^a-z0-9-]+", "-", name.lower())[:63].strip("-")


def _client_id(own: bytes) -> bytes:
    """RFC 4361: type 255, an IAID, and a DUID-UUID (RFC 6355): 23 bytes."""
    return b"\xff" + own[:4] + b"\x00\x04" + own[4:20]


def _mac(digest: bytes) -> str:
    """A MAC that is locally administered and of one station."""
    return bytes([digest[20] & 0xFC | 0x02, *digest[21:26]]).hex(":")


def _digest(*parts: str) -> bytes:
    return hashlib.sha256("\0".join(parts).encode()).digest()
