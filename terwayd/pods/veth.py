"""A pod's interface: the veth pair from the host's side, and what is set inside the pod.

Blocking; each function says in which thread it runs.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import time
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

from terwayd.errors import CniError, KernelError
from terwayd.kernel import netns, probe
from terwayd.kernel.netlink import Netlink
from terwayd.kernel.requests import Requests, add_address, add_route, set_link
from terwayd.kernel.sysctl import write_sysctl
from terwayd.model import RTNH_F_ONLINK, SCOPE_LINK, TABLE_MAIN, Address, IPNetwork, Route
from terwayd.pods.identity import Attachment, host_mac
from terwayd.pods.routes import PodRoute

_CARRIER_S = 1.5  # as long as the kernel may take to tell the bridge
_FORWARDING = "3"  # BR_STATE_FORWARDING of linux/if_bridge.h
_PROBE_S = 0.4  # as long as [dhcp] conflict_detection = "fast" takes


@dataclass(frozen=True, slots=True)
class Inside:
    """What the pod's interface shall have; `mtu` 0 leaves what it was made with."""

    ifname: str
    address: IPv4Interface
    routes: tuple[PodRoute, ...]
    mtu: int = 0


@dataclass(frozen=True, slots=True)
class Opened:
    """A netlink socket in the pod's namespace, for any thread, and the index of the pod's interface.

    It keeps a deleted namespace alive, and so it is closed as soon as the interface is configured.
    """

    requests: Requests
    index: int

    def close(self) -> None:
        self.requests.close()


def plug(
    netlink: Netlink,
    attachment: Attachment,
    namespace: int,
    *,
    mtu: int,
    ipv6: bool,
) -> Opened:
    """Make the veth pair, one end here, the other in the pod's namespace, both down; in the netlink thread.

    Raises CniError when the pod has an interface of that name already.
    """
    _make(netlink, attachment, namespace, mtu=mtu)
    try:
        with netns.inside(namespace):
            return _prepare(attachment.ifname, ipv6=ipv6)
    except BaseException:
        netlink.delete_link(attachment.host_ifname)
        raise


def _make(netlink: Netlink, attachment: Attachment, namespace: int, *, mtu: int) -> None:
    try:
        netlink.add_veth(
            attachment.host_ifname,
            attachment.ifname,
            netns=namespace,
            mac=host_mac(attachment),
            peer_mac=attachment.mac,
            mtu=mtu,
        )
    except KernelError as error:
        if error.errno != errno.EEXIST:
            raise
        if netlink.link(attachment.host_ifname) is not None:  # left by an ADD that never ended
            netlink.delete_link(attachment.host_ifname)
            _make(netlink, attachment, namespace, mtu=mtu)
            return
        raise CniError(
            4,
            f"CNI_IFNAME={attachment.ifname} exists already in {attachment.netns}",
            hint="call DEL before another ADD, or ask for another interface name",
        ) from None


def _prepare(ifname: str, *, ipv6: bool) -> Opened:
    """Inside the pod's namespace, before the interface is up."""
    write_sysctl(f"net/ipv4/conf/{ifname}/arp_notify", "1")  # for what the pod itself changes later
    if not ipv6:
        write_sysctl(f"net/ipv6/conf/{ifname}/disable_ipv6", "1")
    return Opened(Requests(), socket.if_nametoindex(ifname))


def join(netlink: Netlink, attachment: Attachment, bridge: int, *, hairpin: bool, guarded: bool) -> None:
    """The host's end into the bridge, and up; in the netlink thread.  Raises CniError when the bridge is gone.

    `guarded`: nobody but the pod is behind it, and the pod is behind no other port.
    """
    try:
        alias = str(attachment)[:255]
        station = attachment.mac if guarded else ""
        netlink.join(attachment.host_ifname, bridge, alias=alias, hairpin=hairpin, station=station)
    except KernelError:
        if bridge in {link.index for link in netlink.links()}:
            raise
        raise CniError(11, "the bridge is gone, and is just being made anew") from None


def configure(_: Netlink, opened: Opened, inside: Inside) -> None:
    """The interface up, with its address and routes, all of it in one call to the kernel; in the netlink thread."""
    opened.requests.send(
        *([set_link(inside.ifname, mtu=inside.mtu)] if inside.mtu else []),
        add_address(opened.index, inside.address),
        set_link(inside.ifname, up=True),
        *(add_route(opened.index, route.dst, route.gateway, onlink=route.onlink) for route in inside.routes),
    )


def change(
    attachment: Attachment, before: Inside | None, after: Inside | None, led: frozenset[IPNetwork]
) -> frozenset[IPNetwork]:
    """Inside the pod's namespace: what `before` gave goes, what `after` says comes.

    The destinations for which this interface stood before the pod's others; it does so after, and for those of them
    alone.  Where there is no `before`, `led` are those.  Raises KernelError when the interface is not the attachment's.
    """
    with Netlink() as netlink:
        link = netlink.link(attachment.ifname)
        if link is None or link.mac != attachment.mac:
            raise KernelError(f"{attachment.netns} is another pod's by now", errno.ENODEV)
        first: dict[IPNetwork, Route] = {}
        for known in netlink.glimpse(attachment.ifname).routes:
            if known.table == TABLE_MAIN and not known.priority:
                first.setdefault(known.dst, known)
        others = {dst for dst, route in first.items() if not route.uses(attachment.ifname)}
        if before is not None:
            led = frozenset(first.keys() - others)
        if before is not None and (after is None or after.address != before.address):
            netlink.delete_address(_address(before))
        if after is None:
            return led
        if before is None or before.address != after.address:
            netlink.add_address(_address(after))
        if after.mtu and after.mtu != link.mtu:
            netlink.set_link(after.ifname, mtu=after.mtu)
        for route in after.routes:  # with an address go the routes over it
            netlink.add_route(_route(after, route), behind=route.dst in others - led)
        for route in before.routes if before is not None else ():  # last, so that there is always one
            if route not in after.routes:
                netlink.delete_route(_route(after, route))
    return led


def missing(inside: Inside, mac: str) -> list[str]:
    """Inside the pod's namespace: what is not there of what `inside` says."""
    with Netlink() as netlink:
        host = netlink.glimpse(inside.ifname)
    link = host.link(inside.ifname)
    if link is None:
        return [f"{inside.ifname} is gone"]
    lost = [] if link.mac == mac else [f"{inside.ifname} has the MAC {link.mac}, not {mac}"]
    if not link.up:
        lost.append(f"{inside.ifname} is down")
    if inside.address not in {address.interface for address in host.addresses_of(inside.ifname)}:
        lost.append(f"{inside.ifname} has not {inside.address}")
    there = {(route.dst, route.gateway) for route in host.routes_of(inside.ifname)}
    gone = [route for route in inside.routes if (route.dst, route.gateway) not in there]
    return lost + [f"the route to {r.dst}{f' via {r.gateway}' if r.gateway else ''} is gone" for r in gone]


def is_taken(attachment: Attachment, address: IPv4Address) -> bool:
    """Whether somebody on the LAN has `address`, or is about to take it too; in the pod's namespace, blocking.

    Asked as soon as the bridge forwards for the port: before it has noticed its carrier nobody would hear or be heard.
    """
    with Netlink() as netlink:
        netlink.set_link(attachment.ifname, state="up")
    state = Path(f"/sys/class/net/{attachment.host_ifname}/brport/state")
    end = time.monotonic() + _CARRIER_S
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            if state.read_text().strip() == _FORWARDING:
                break
        time.sleep(0.005)
    return probe.contested(attachment.ifname, attachment.mac, address, _PROBE_S)


def _address(inside: Inside) -> Address:
    return Address(inside.ifname, inside.address, broadcast=inside.address.network.broadcast_address)


def _route(inside: Inside, route: PodRoute) -> Route:
    return Route(
        route.dst,
        inside.ifname,
        route.gateway,
        scope=0 if route.gateway is not None else SCOPE_LINK,
        flags=RTNH_F_ONLINK if route.onlink else 0,
    )
