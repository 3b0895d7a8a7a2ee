"""A pod's interface: the veth pair from the host's side, and what is set inside the pod.

Blocking; each function says in which thread it runs.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from ipaddress import IPv4Interface

from terwayd.errors import CniError, KernelError
from terwayd.kernel.netlink import Netlink, write_sysctl
from terwayd.model import RTNH_F_ONLINK, SCOPE_LINK, Address, Route
from terwayd.pods.identity import Attachment, host_mac
from terwayd.pods.routes import PodRoute


@dataclass(frozen=True, slots=True)
class Inside:
    """What the pod's interface shall have; `mtu` 0 leaves what it was made with."""

    ifname: str
    address: IPv4Interface
    routes: tuple[PodRoute, ...]
    mtu: int = 0


def plug(netlink: Netlink, attachment: Attachment, netns: int, *, bridge: int, mtu: int) -> None:
    """Make the veth pair, one end in the bridge, the other in the namespace `netns`; in the netlink thread.

    Raises CniError when the pod has an interface of that name already.
    """
    try:
        netlink.add_veth(
            attachment.host_ifname,
            attachment.ifname,
            netns=netns,
            mac=host_mac(attachment),
            peer_mac=attachment.mac,
            mtu=mtu,
            bridge=bridge,
            alias=str(attachment)[:255],
        )
    except KernelError as error:
        if error.errno != errno.EEXIST:
            raise
        if netlink.link(attachment.host_ifname) is not None:  # left by an ADD that never ended
            netlink.delete_link(attachment.host_ifname)
            plug(netlink, attachment, netns, bridge=bridge, mtu=mtu)
            return
        raise CniError(
            4,
            f"CNI_IFNAME={attachment.ifname} exists already in {attachment.netns}",
            hint="call DEL before another ADD, or ask for another interface name",
        ) from None


def prepare(ifname: str, *, ipv6: bool) -> None:
    """Inside the pod's namespace, before the interface is up."""
    write_sysctl(f"net/ipv4/conf/{ifname}/arp_notify", "1")  # the LAN learns of a new MAC at once
    if not ipv6:
        write_sysctl(f"net/ipv6/conf/{ifname}/disable_ipv6", "1")


def configure(inside: Inside) -> None:
    """Inside the pod's namespace: the interface up, with its address and routes."""
    with Netlink() as netlink:
        if inside.mtu:
            netlink.set_link(inside.ifname, mtu=inside.mtu)
        netlink.add_address(
            Address(inside.ifname, inside.address, broadcast=inside.address.network.broadcast_address)
        )
        netlink.set_link(inside.ifname, state="up")
        for route in inside.routes:
            netlink.add_route(
                Route(
                    route.dst,
                    inside.ifname,
                    route.gateway,
                    scope=0 if route.gateway is not None else SCOPE_LINK,
                    flags=RTNH_F_ONLINK if route.onlink else 0,
                )
            )
