"""rtnetlink: the kernel's interfaces, addresses, routes and neighbours as the values of terwayd.model.

The only importer of pyroute2; nothing above sees its messages or its errors.  A Netlink belongs to
the thread, and so to the network namespace, in which it was made, and is used nowhere else.
Every call is a few requests; what is there already, or gone already, is no error where the
docstring says so.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Self, cast

from terwayd.errors import KernelError
from terwayd.kernel import messages, requests
from terwayd.kernel.sparing import sparing
from terwayd.kernel.sysctl import write_sysctl
from terwayd.model import (
    IFA_F_NODAD,
    Address,
    Host,
    Link,
    Neighbour,
    Route,
    Rule,
    other_mtu,
)

sparing("pyroute2")  # before the first import of it

from pyroute2.iproute import IPRoute
from pyroute2.netlink import (
    NLM_F_ACK,
    NLM_F_APPEND,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    NLM_F_REQUEST,
)
from pyroute2.netlink.exceptions import NetlinkDumpInterrupted, NetlinkError
from pyroute2.netlink.rtnl import (
    RTM_DELADDR,
    RTM_DELROUTE,
    RTM_DELRULE,
    RTM_GETNEIGH,
    RTM_NEWADDR,
    RTM_NEWNEIGH,
    RTM_NEWROUTE,
    RTM_NEWRULE,
)
from pyroute2.netlink.rtnl.fibmsg import fibmsg
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

# pyroute2 0.7 stops at IFA_FLAGS; linux/if_addr.h goes on.
_NEWER_IFA = (("IFA_RT_PRIORITY", "uint32"), ("IFA_TARGET_NETNSID", "uint32"), ("IFA_PROTO", "uint8"))
ifaddrmsg.nla_map += _NEWER_IFA[max(0, len(ifaddrmsg.nla_map) - 9) :]
_RTM_F_CLONED = 0x200
_NEWER_RTAX = (("RTAX_CC_ALGO", "asciiz"), ("RTAX_FASTOPEN_NO_COOKIE", "uint32"))
rtmsg.metrics.nla_map += _NEWER_RTAX[max(0, len(rtmsg.metrics.nla_map) - 16) :]
_DUMPS = 50  # times that a dump is tried which changes cut short


class Netlink:
    """A netlink socket of the network namespace that the calling thread is in."""

    def __init__(self) -> None:
        self._ipr = IPRoute()
        if isinstance(status := getattr(self._ipr, "status", None), dict):
            status.setdefault("nlm_generator", True)  # which nlm_request of pyroute2 0.9.7 reads unset
        self._requests = requests.Requests()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._ipr.close()
        self._requests.close()

    # What is there.

    def link(self, name: str) -> Link | None:
        """The interface called `name`, asked for by name: no dump."""
        try:
            return next((messages.link(message) for message in self._ipr.link("get", ifname=name)), None)
        except NetlinkError as error:
            if error.code == errno.ENODEV:
                return None
            raise KernelError(f"ip link show {name}: {os.strerror(error.code)}", error.code) from None

    @staticmethod
    def names() -> set[str]:
        """The names of all interfaces: without a message decoded here, as there may be a thousand."""
        return {name for _, name in socket.if_nameindex()}

    def links(self) -> tuple[Link, ...]:
        return tuple(messages.link(message) for message in self._dump(self._ipr.get_links))

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
            addresses=tuple(messages.address(message, names) for message in self._dump(self._ipr.get_addr)),
            routes=tuple(route for family in (2, 10) for route in self._routes(family, names)),
            neighbours=neighbours,
            rules=tuple(self._rules()),
        )

    @staticmethod
    def _dump(get: Callable[..., Iterable[Any]], **options: Any) -> tuple[Any, ...]:
        """A dump that nothing has changed under; KernelError when that cannot be had."""
        for _ in range(_DUMPS):
            try:
                return tuple(get(**options))
            except NetlinkDumpInterrupted:
                continue
            except NetlinkError as error:
                raise KernelError(
                    f"the network cannot be read: {os.strerror(error.code)}", error.code
                ) from None
        raise KernelError("the network changes faster than it can be read", errno.EAGAIN)

    def _routes(self, family: int, names: dict[int, str]) -> Iterator[Route]:
        for message in self._dump(self._ipr.get_routes, family=family):
            if not message["flags"] & _RTM_F_CLONED:
                yield messages.route(message, names)

    def _neighbours(self, names: dict[int, str]) -> Iterator[Neighbour]:
        for message in self._dump(self._ipr.get_neighbours):
            if (known := messages.neighbour(message, names)) is not None:
                yield known
        for message in self._dump(self._proxies):
            if (known := messages.proxy(message, names)) is not None:
                yield known

    def _proxies(self) -> Iterable[Any]:
        message = ndmsg()
        message["flags"] = messages.NTF_PROXY
        return cast("Iterable[Any]", self._ipr.nlm_request(message, RTM_GETNEIGH, NLM_F_REQUEST | NLM_F_DUMP))

    def _rules(self) -> Iterator[Rule]:
        for family in (2, 10):
            for message in self._dump(self._ipr.get_rules, family=family):
                if message["family"] == family:
                    yield messages.rule(message)

    # What is changed.

    def add_bridge(self, name: str, mac: str, mtu: int) -> None:
        """A bridge with its MAC in the creating message; one of that name may be there already.

        Its MTU is made another one afterwards: from then on the kernel does not lower it to that of a port.
        """
        options = {"br_stp_state": 0, "br_forward_delay": 0, "br_mcast_snooping": 0}
        with _told(f"ip link add {name} type bridge", errno.EEXIST):
            self._ipr.link("add", ifname=name, kind="bridge", address=mac, mtu=other_mtu(mtu), **options)
        self.set_link(name, mtu=mtu)

    def add_veth(
        self,
        name: str,
        peer: str,
        *,
        netns: int,
        mac: str,
        peer_mac: str,
        mtu: int,
    ) -> None:
        """A veth pair, its end `name` here, its end `peer` in the namespace `netns`, both down.

        Raises KernelError with EEXIST when either name is taken.
        """
        pair = requests.new_veth(name, peer, netns=netns, mac=mac, peer_mac=peer_mac, mtu=mtu)
        self._requests.send(pair)
        write_sysctl(f"net/ipv6/conf/{name}/disable_ipv6", "1")  # a port has no business with IPv6

    def join(self, name: str, bridge: int, *, alias: str, hairpin: bool = False, station: str = "") -> None:
        """Make an interface a port of the bridge with this index, up; it may be that already.

        `station`: the one MAC address that is behind it; "" lets the bridge find out who is.  KernelError with ENODEV
        when the interface is gone.
        """
        self._requests.send(
            requests.set_link(name, master=bridge, alias=alias),
            requests.set_port(name, hairpin=hairpin, learning=not station),
            *([requests.add_station(name, _index(name), station)] if station else []),
            requests.set_link(name, up=True),
        )

    def add_pair(self, name: str, peer: str, *, mtu: int) -> None:
        """A veth pair with both ends here, down."""
        with _told(f"ip link add {name} type veth peer {peer}"):
            self._ipr.link("add", ifname=name, kind="veth", mtu=mtu, peer={"ifname": peer, "mtu": mtu})

    def set_port(self, name: str, **values: int) -> None:
        """Set what a port of a bridge does: `learning`, `isolated` (0 or 1)."""
        shown = " ".join(f"{key} {value}" for key, value in values.items())
        with _told(f"bridge link set dev {name} {shown}"):
            self._ipr.link("set", index=self.index(name), kind="bridge_slave", **values)

    def set_hairpin(self, name: str) -> None:
        """Let a port of a bridge send back what came from it."""
        self._requests.send(requests.set_port(name, hairpin=True))

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
            flags = address.flags & messages.SETTABLE
            if address.interface.version == 6 and not flags & IFA_F_NODAD:
                # Without the tentative state from the start; the flag itself is taken off again after.
                quick = replace(address, flags=flags | IFA_F_NODAD)
                self._send(
                    ifaddrmsg(), messages.of_address(quick, index), RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE
                )
            self._send(
                ifaddrmsg(), messages.of_address(address, index), RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE
            )

    def delete_address(self, address: Address) -> None:
        """Delete an address, which may be gone already, or its interface."""
        gone = (errno.EADDRNOTAVAIL, errno.ENODEV)
        with _told(f"ip addr del {address.interface} dev {address.dev}", *gone):
            self._send(ifaddrmsg(), messages.of_address(address, self.index(address.dev)), RTM_DELADDR, 0)

    def add_route(self, route: Route, *, behind: bool = False) -> None:
        """Put a route in front of those with the same destination and metric, or `behind` them.

        It may be there already.
        """
        verb, flags = ("append", NLM_F_CREATE | NLM_F_APPEND) if behind else ("prepend", NLM_F_CREATE)
        try:
            with _told(f"ip route {verb} {route.dst} dev {route.dev}", errno.EEXIST):
                self._send(rtmsg(), messages.of_route(route, self.index), RTM_NEWROUTE, flags)
        except KernelError as error:
            # One whose gateway is not reached any more would not be taken today, but stays when it is there.
            if error.errno != errno.ENETUNREACH or not self._is_there(route):
                raise

    def _is_there(self, route: Route) -> bool:
        names = {link.index: link.name for link in self.links()}
        return route in self._routes(2 if route.dst.version == 4 else 10, names)

    def delete_route(self, route: Route) -> None:
        """Delete a route, which may be gone already, or its interface."""
        with _told(f"ip route del {route.dst} dev {route.dev}", errno.ESRCH, errno.ENODEV):
            self._send(rtmsg(), messages.of_route(route, self.index), RTM_DELROUTE, 0)

    def add_rule(self, rule: Rule) -> None:
        """Add a rule, which may be there already."""
        with _told(f"ip rule add priority {rule.get('FRA_PRIORITY')}", errno.EEXIST):
            self._send(fibmsg(), messages.of_rule(rule), RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL)

    def delete_rule(self, rule: Rule) -> None:
        """Delete a rule, which may be gone already."""
        with _told(f"ip rule del priority {rule.get('FRA_PRIORITY')}", errno.ENOENT):
            self._send(fibmsg(), messages.of_rule(rule), RTM_DELRULE, 0)

    def add_neighbour(self, neighbour: Neighbour) -> None:
        with _told(f"ip neigh replace {neighbour.ip} dev {neighbour.dev}"):
            self._send(
                ndmsg(),
                messages.of_neighbour(neighbour, self.index(neighbour.dev)),
                RTM_NEWNEIGH,
                NLM_F_CREATE | NLM_F_REPLACE,
            )

    def _send(self, message: Any, fields: messages.Fields, kind: int, flags: int) -> None:
        for name, value in fields.items():
            message[name] = value
        tuple(self._ipr.nlm_request(message, msg_type=kind, msg_flags=NLM_F_REQUEST | NLM_F_ACK | flags))


def _index(name: str) -> int:
    """Without a request, for what is done to every pod."""
    try:
        return socket.if_nametoindex(name)
    except OSError:
        raise KernelError(f"there is no interface {name}", errno.ENODEV) from None


@contextmanager
def _told(what: str, *fine: int) -> Iterator[None]:
    """Turn pyroute2's error into ours, naming what was tried; the errnos `fine` are no error."""
    try:
        yield
    except NetlinkError as error:
        if error.code in fine:
            return
        hint = "terwayctl doctor kernel" if error.code == errno.EOPNOTSUPP else ""
        raise KernelError(f"{what}: {os.strerror(error.code)}", error.code, hint=hint) from None
    except KernelError as error:
        if error.errno not in fine:
            raise
