"""rtnetlink: the kernel's interfaces, addresses, routes and neighbours as the values of terwayd.model.

The only importer of pyroute2; nothing above sees its messages or its errors.  A Netlink belongs to
the thread, and so to the network namespace, in which it was made, and is used nowhere else.
Every call is a few requests; what is there already, or gone already, is no error where the
docstring says so.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from ipaddress import IPv4Address, ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Any, Self

from pyroute2 import IPRoute
from pyroute2.netlink import NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST
from pyroute2.netlink.exceptions import NetlinkDumpInterrupted, NetlinkError
from pyroute2.netlink.rtnl import (
    RTM_DELADDR,
    RTM_DELROUTE,
    RTM_NEWADDR,
    RTM_NEWNEIGH,
    RTM_NEWROUTE,
)
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from terwayd.errors import KernelError
from terwayd.model import (
    IFA_F_NODAD,
    Address,
    Hop,
    Host,
    IPAddress,
    Link,
    Neighbour,
    Route,
)

_FOREVER = 0xFFFFFFFF
_AF = {4: 2, 6: 10}
_IFA_F_SETTABLE = 0x02 | 0x10 | 0x100 | 0x200 | 0x400  # nodad, home, mngtmpaddr, noprefixroute, autojoin
_NUD_REACHABLE, _NUD_STALE, _NUD_PERMANENT = 0x02, 0x04, 0x80
_NUD_USABLE = _NUD_REACHABLE | _NUD_STALE | 0x08 | 0x10 | _NUD_PERMANENT  # and delay, probe
# pyroute2 0.7 stops at IFA_FLAGS; linux/if_addr.h goes on.
_NEWER_IFA = (("IFA_RT_PRIORITY", "uint32"), ("IFA_TARGET_NETNSID", "uint32"), ("IFA_PROTO", "uint8"))
ifaddrmsg.nla_map += _NEWER_IFA[max(0, len(ifaddrmsg.nla_map) - 9) :]
_RTM_F_CLONED = 0x200
# What a route may say that is not carried over; pyroute2 0.7 does not know RTA_NH_ID.
_FOREIGN = {
    "RTA_SRC": "a source prefix",
    "RTA_IIF": "an incoming interface",
    "RTA_FLOW": "a realm",
    "RTA_ENCAP": "an encapsulation",
    "RTA_ENCAP_TYPE": "an encapsulation",
    "RTA_NH_ID": "a nexthop object",
    "UNKNOWN": "a nexthop object",
}
_NEWER_RTAX = (("RTAX_CC_ALGO", "asciiz"), ("RTAX_FASTOPEN_NO_COOKIE", "uint32"))
rtmsg.metrics.nla_map += _NEWER_RTAX[max(0, len(rtmsg.metrics.nla_map) - 16) :]
_USER_HZ = 100
_DUMPS = 50  # times that a dump is tried which changes cut short


class Netlink:
    """A netlink socket of the network namespace that the calling thread is in."""

    def __init__(self) -> None:
        self._ipr = IPRoute()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._ipr.close()

    # What is there.

    def link(self, name: str) -> Link | None:
        """The interface called `name`, asked for by name: no dump."""
        try:
            return next((_link(message) for message in self._ipr.link("get", ifname=name)), None)
        except NetlinkError as error:
            if error.code == errno.ENODEV:
                return None
            raise KernelError(f"ip link show {name}: {os.strerror(error.code)}", error.code) from None

    def links(self) -> tuple[Link, ...]:
        return tuple(_link(message) for message in self._dump(self._ipr.get_links))

    def observe(self) -> Host:
        """The host's network but for the sysctls, which read_sysctls() reads for the interfaces that matter."""
        links = self.links()
        names = {link.index: link.name for link in links}
        return self._host(links, names, tuple(self._neighbours(names)))

    def glimpse(self, *devs: str) -> Host:
        """The same for these interfaces alone, with no neighbours: it costs the same however many pods there are."""
        links = tuple(link for link in map(self.link, devs) if link is not None)
        return self._host(links, {link.index: link.name for link in links}, ())

    def _host(
        self, links: tuple[Link, ...], names: dict[int, str], neighbours: tuple[Neighbour, ...]
    ) -> Host:
        return Host(
            links=links,
            addresses=tuple(_address(message, names) for message in self._dump(self._ipr.get_addr)),
            routes=tuple(route for family in (2, 10) for route in self._routes(family, names)),
            neighbours=neighbours,
        )

    @staticmethod
    def _dump(get: Callable[..., Iterable[Any]], **options: Any) -> tuple[Any, ...]:
        """A dump that nothing has changed under; KernelError when that cannot be had."""
        for _ in range(_DUMPS):
            with suppress(NetlinkDumpInterrupted):
                return tuple(get(**options))
        raise KernelError("the network changes faster than it can be read", errno.EAGAIN)

    def _routes(self, family: int, names: dict[int, str]) -> Iterator[Route]:
        for message in self._dump(self._ipr.get_routes, family=family):
            if not message["flags"] & _RTM_F_CLONED:
                yield _route(message, names)

    def _neighbours(self, names: dict[int, str]) -> Iterator[Neighbour]:
        for message in self._dump(self._ipr.get_neighbours):
            mac, dst = message.get_attr("NDA_LLADDR"), message.get_attr("NDA_DST")
            if mac and dst and message["family"] in _AF.values() and message["state"] & _NUD_USABLE:
                permanent = bool(message["state"] & _NUD_PERMANENT)
                yield Neighbour(names.get(message["ifindex"], ""), ip_address(dst), mac, permanent)

    # What is changed.

    def add_bridge(self, name: str, mac: str, mtu: int) -> None:
        """A bridge with its MAC in the creating message; one of that name may be there already."""
        options = {"br_stp_state": 0, "br_forward_delay": 0, "br_mcast_snooping": 0}
        with _told(f"ip link add {name} type bridge", errno.EEXIST):
            self._ipr.link("add", ifname=name, kind="bridge", address=mac, mtu=mtu, **options)

    def add_veth(
        self, name: str, peer: str, *, netns: int, mac: str, peer_mac: str, mtu: int, bridge: int, alias: str
    ) -> None:
        """A veth pair, its end `name` here and up in the bridge, its end `peer` in the namespace `netns`.

        Raises KernelError with EEXIST when either name is taken.
        """
        with _told(f"ip link add {name} type veth peer {peer}"):
            self._ipr.link(
                "add",
                ifname=name,
                kind="veth",
                address=mac,
                mtu=mtu,
                master=bridge,
                peer={"ifname": peer, "address": peer_mac, "mtu": mtu, "net_ns_fd": netns},
            )
        # The kernel takes no alias in the creating message.  A port has no business with IPv6.
        write_sysctl(f"net/ipv6/conf/{name}/disable_ipv6", "1")
        self.set_link(name, ifalias=alias, state="up")

    def add_pair(self, name: str, peer: str, *, mtu: int) -> None:
        """A veth pair with both ends here, down."""
        with _told(f"ip link add {name} type veth peer {peer}"):
            self._ipr.link("add", ifname=name, kind="veth", mtu=mtu, peer={"ifname": peer, "mtu": mtu})

    def set_port(self, name: str, **values: int) -> None:
        """Set what a port of a bridge does: `learning`, `isolated` (0 or 1)."""
        shown = " ".join(f"{key} {value}" for key, value in values.items())
        with _told(f"bridge link set dev {name} {shown}"):
            self._ipr.link("set", index=self.index(name), kind="bridge_slave", **values)

    def delete_link(self, name: str) -> None:
        """Delete an interface, which may be gone already."""
        with _told(f"ip link del {name}", errno.ENODEV):
            self._ipr.link("del", ifname=name)

    def set_link(self, name: str, **values: Any) -> None:
        """Change an interface: `state`, `mtu`, `master` (an index), `ifalias`, `address`."""
        shown = " ".join(f"{key} {value}" for key, value in values.items())
        with _told(f"ip link set {name} {shown}"):
            self._ipr.link("set", index=self.index(name), **values)

    def index(self, name: str) -> int:
        link = self.link(name)
        if link is None:
            raise KernelError(f"there is no interface {name}", errno.ENODEV)
        return link.index

    def add_address(self, address: Address) -> None:
        """Add or replace; an IPv6 address is usable at once (no duplicate address detection)."""
        with _told(f"ip addr add {address.interface} dev {address.dev}"):
            index = self.index(address.dev)
            flags = address.flags & _IFA_F_SETTABLE
            if address.interface.version == 6 and not flags & IFA_F_NODAD:
                # Without the tentative state from the start; the flag itself is taken off again after.
                quick = replace(address, flags=flags | IFA_F_NODAD)
                self._send(_ifaddrmsg(quick, index), RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE)
            self._send(_ifaddrmsg(address, index), RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE)

    def delete_address(self, address: Address) -> None:
        """Delete an address, which may be gone already, or its interface."""
        gone = (errno.EADDRNOTAVAIL, errno.ENODEV)
        with _told(f"ip addr del {address.interface} dev {address.dev}", *gone):
            self._send(_ifaddrmsg(address, self.index(address.dev)), RTM_DELADDR, 0)

    def add_route(self, route: Route) -> None:
        """Put a route in front of those with the same destination and metric; it may be there already."""
        try:
            with _told(f"ip route prepend {route.dst} dev {route.dev}", errno.EEXIST):
                self._send(self._rtmsg(route), RTM_NEWROUTE, NLM_F_CREATE)
        except KernelError as error:
            # One whose gateway is not reached any more would not be taken today, but stays when it is there.
            if error.errno != errno.ENETUNREACH or not self._is_there(route):
                raise

    def _is_there(self, route: Route) -> bool:
        names = {link.index: link.name for link in self.links()}
        return route in self._routes(_AF[route.dst.version], names)

    def delete_route(self, route: Route) -> None:
        """Delete a route, which may be gone already, or its interface."""
        with _told(f"ip route del {route.dst} dev {route.dev}", errno.ESRCH, errno.ENODEV):
            self._send(self._rtmsg(route), RTM_DELROUTE, 0)

    def add_neighbour(self, neighbour: Neighbour) -> None:
        message = ndmsg()
        message["family"] = _AF[neighbour.ip.version]
        message["ifindex"] = self.index(neighbour.dev)
        message["state"] = _NUD_PERMANENT if neighbour.permanent else _NUD_STALE
        message["attrs"] = [["NDA_DST", str(neighbour.ip)], ["NDA_LLADDR", neighbour.mac]]
        with _told(f"ip neigh replace {neighbour.ip} dev {neighbour.dev}"):
            self._send(message, RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE)

    def _send(self, message: Any, kind: int, flags: int) -> None:
        tuple(self._ipr.nlm_request(message, msg_type=kind, msg_flags=NLM_F_REQUEST | NLM_F_ACK | flags))

    def _rtmsg(self, route: Route) -> Any:
        message = rtmsg()
        message["family"] = _AF[route.dst.version]
        message["dst_len"] = route.dst.prefixlen
        message["tos"] = route.tos
        message["table"] = route.table if route.table < 256 else 252
        message["proto"] = route.proto
        message["scope"] = route.scope
        message["type"] = route.type
        message["flags"] = route.flags
        attrs: list[list[Any]] = [["RTA_TABLE", route.table]]
        if route.dst.prefixlen:
            attrs.append(["RTA_DST", str(route.dst.network_address)])
        if route.dev:
            attrs.append(["RTA_OIF", self.index(route.dev)])
        if route.gateway is not None:
            attrs.append(_gateway(route.gateway, route.dst.version))
        if route.prefsrc is not None:
            attrs.append(["RTA_PREFSRC", str(route.prefsrc)])
        if route.priority:
            attrs.append(["RTA_PRIORITY", route.priority])
        if route.metrics:
            attrs.append(["RTA_METRICS", {"attrs": [list(item) for item in route.metrics]}])
        if route.pref is not None:
            attrs.append(["RTA_PREF", route.pref])
        if route.expires is not None:
            attrs.append(["RTA_EXPIRES", route.expires.to_bytes(4, "little")])
        if route.hops:
            attrs.append(["RTA_MULTIPATH", [self._hop(hop, route.dst.version) for hop in route.hops]])
        message["attrs"] = attrs
        return message

    def _hop(self, hop: Hop, version: int) -> dict[str, Any]:
        gateway = [_gateway(hop.gateway, version)] if hop.gateway is not None else []
        return {"oif": self.index(hop.dev), "hops": hop.weight - 1, "flags": hop.flags, "attrs": gateway}


def read_sysctls(keys: tuple[str, ...], *devs: str) -> dict[str, str]:
    """The values of `keys` (with {} for the interface) for each of `devs`, where the kernel has them."""
    found = {}
    for dev in devs:
        for key in keys:
            name = key.format(dev)
            try:
                found[name] = Path("/proc/sys", name).read_text().strip()
            except OSError:
                continue
    return found


def write_sysctl(key: str, value: str) -> None:
    """Set /proc/sys/`key`; a key that this kernel does not have is left out."""
    try:
        Path("/proc/sys", key).write_text(value)
    except FileNotFoundError:
        return
    except OSError as error:
        raise KernelError(f"sysctl -w {key}={value}: {error.strerror}", error.errno or 0) from None


@contextmanager
def _told(what: str, *fine: int) -> Iterator[None]:
    """Turn pyroute2's error into ours, naming what was tried; the errnos `fine` are no error."""
    try:
        yield
    except NetlinkError as error:
        if error.code in fine:
            return
        raise KernelError(f"{what}: {os.strerror(error.code)}", error.code) from None
    except KernelError as error:
        if error.errno not in fine:
            raise


def _gateway(gateway: IPAddress, version: int) -> list[Any]:
    if gateway.version == version:
        return ["RTA_GATEWAY", str(gateway)]
    return ["RTA_VIA", {"family": _AF[gateway.version], "addr": str(gateway)}]


def _link(message: Any) -> Link:
    info = message.get_attr("IFLA_LINKINFO")
    kind = (info.get_attr("IFLA_INFO_KIND") or "") if info else ""
    name = message.get_attr("IFLA_IFNAME")
    lower = 0 if message.get_attr("IFLA_LINK_NETNSID") is not None else message.get_attr("IFLA_LINK") or 0
    return Link(
        index=message["index"],
        name=name,
        mac=message.get_attr("IFLA_ADDRESS") or "",
        mtu=message.get_attr("IFLA_MTU") or 0,
        kind=kind,
        master=message.get_attr("IFLA_MASTER") or 0,
        lower=lower,
        up=bool(message["flags"] & 0x1),
        carrier=bool(message["flags"] & 0x10000),
        loopback=bool(message["flags"] & 0x8),
        wireless=any(Path("/sys/class/net", name, x).exists() for x in ("wireless", "phy80211")),
        alias=message.get_attr("IFLA_IFALIAS") or "",
    )


def _address(message: Any, names: dict[int, str]) -> Address:
    given, local = message.get_attr("IFA_ADDRESS"), message.get_attr("IFA_LOCAL")
    times = message.get_attr("IFA_CACHEINFO") or {"ifa_valid": _FOREVER, "ifa_preferred": _FOREVER}
    broadcast = message.get_attr("IFA_BROADCAST")
    flags = message.get_attr("IFA_FLAGS")
    return Address(
        dev=names.get(message["index"], ""),
        interface=ip_interface(f"{local or given}/{message['prefixlen']}"),
        peer=ip_address(given) if local and given and given != local else None,
        broadcast=IPv4Address(broadcast) if broadcast else None,
        label=message.get_attr("IFA_LABEL") or "",
        scope=message["scope"],
        flags=flags if flags is not None else message["flags"],
        valid=None if times["ifa_valid"] == _FOREVER else times["ifa_valid"],
        preferred=None if times["ifa_preferred"] == _FOREVER else times["ifa_preferred"],
        metric=message.get_attr("IFA_RT_PRIORITY") or 0,
    )


def _ifaddrmsg(address: Address, index: int) -> Any:
    message = ifaddrmsg()
    ip, peer = address.interface.ip, address.peer
    flags = address.flags & _IFA_F_SETTABLE
    message["family"] = _AF[ip.version]
    message["prefixlen"] = address.interface.network.prefixlen
    message["flags"] = flags & 0xFF
    message["scope"] = address.scope
    message["index"] = index
    attrs: list[list[Any]] = [["IFA_LOCAL", str(ip)], ["IFA_ADDRESS", str(peer or ip)], ["IFA_FLAGS", flags]]
    if address.broadcast is not None:
        attrs.append(["IFA_BROADCAST", str(address.broadcast)])
    if address.label:
        attrs.append(["IFA_LABEL", address.label])
    if address.metric:
        attrs.append(["IFA_RT_PRIORITY", address.metric])
    if address.valid is not None or address.preferred is not None:
        times = {
            "ifa_valid": _FOREVER if address.valid is None else address.valid,
            "ifa_preferred": _FOREVER if address.preferred is None else address.preferred,
            "cstamp": 0,
            "tstamp": 0,
        }
        attrs.append(["IFA_CACHEINFO", times])
    message["attrs"] = attrs
    return message


def _route(message: Any, names: dict[int, str]) -> Route:
    any_of = str(IPv4Address(0)) if message["family"] == 2 else "::"
    dst = message.get_attr("RTA_DST") or any_of
    cache = message.get_attr("RTA_CACHEINFO")
    expires = cache["rta_expires"] if cache and message["family"] == 10 else 0
    metrics = message.get_attr("RTA_METRICS")
    prefsrc = message.get_attr("RTA_PREFSRC")
    return Route(
        dst=ip_network(f"{dst}/{message['dst_len']}"),
        dev=names.get(message.get_attr("RTA_OIF") or 0, ""),
        gateway=_via(message),
        prefsrc=ip_address(prefsrc) if prefsrc else None,
        table=message.get_attr("RTA_TABLE") or message["table"],
        priority=message.get_attr("RTA_PRIORITY") or 0,
        proto=message["proto"],
        scope=message["scope"],
        type=message["type"],
        tos=message["tos"],
        flags=message["flags"] & 4,
        metrics=tuple((name, value) for name, value in metrics["attrs"]) if metrics else (),
        hops=tuple(_hops(message, names)),
        pref=message.get_attr("RTA_PREF") or None,
        expires=expires // _USER_HZ if expires > 0 else None,
        foreign=tuple(sorted({_FOREIGN[name] for name, _ in message["attrs"] if name in _FOREIGN})),
    )


def _hops(message: Any, names: dict[int, str]) -> Iterator[Hop]:
    for leg in message.get_attr("RTA_MULTIPATH") or ():
        yield Hop(names.get(leg["oif"], ""), _via(leg), leg["hops"] + 1, leg["flags"] & 4)


def _via(message: Any) -> IPAddress | None:
    gateway = message.get_attr("RTA_GATEWAY")
    if gateway is None:
        via = message.get_attr("RTA_VIA")
        gateway = via["addr"] if via else None
    return ip_address(gateway) if gateway else None
