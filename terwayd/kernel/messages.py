"""The values of terwayd.model, and what netlink messages say: from the one to the other and back.

A message is whatever has get_attr() and named fields; what is sent is named fields with "attrs".
This file does not know pyroute2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Any

from terwayd.model import Address, Hop, IPAddress, Link, Neighbour, Route, Rule

Fields = dict[str, Any]

_FOREVER = 0xFFFFFFFF
_AF = {4: 2, 6: 10}
SETTABLE = 0x02 | 0x10 | 0x100 | 0x200 | 0x400  # nodad, home, mngtmpaddr, noprefixroute, autojoin
_NUD_REACHABLE, _NUD_STALE, _NUD_PERMANENT = 0x02, 0x04, 0x80
_NUD_USABLE = _NUD_REACHABLE | _NUD_STALE | 0x08 | 0x10 | _NUD_PERMANENT  # and delay, probe
_USER_HZ = 100
_FIB_RULE_INVERT = 0x2
NTF_PROXY = 0x8
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


def _gateway(gateway: IPAddress, version: int) -> list[Any]:
    if gateway.version == version:
        return ["RTA_GATEWAY", str(gateway)]
    return ["RTA_VIA", {"family": _AF[gateway.version], "addr": str(gateway)}]


def link(message: Any) -> Link:
    """RTM_NEWLINK; that a NIC is wireless is told by /sys alone."""
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


def address(message: Any, names: dict[int, str]) -> Address:
    """RTM_NEWADDR; `names` of interfaces by index."""
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


def of_address(address: Address, index: int) -> Fields:
    """An address of the interface with this index, as RTM_NEWADDR has it."""
    message: Fields = {}
    ip, peer = address.interface.ip, address.peer
    flags = address.flags & SETTABLE
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


def route(message: Any, names: dict[int, str]) -> Route:
    """RTM_NEWROUTE; `names` of interfaces by index."""
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


def of_route(route: Route, index: Callable[[str], int]) -> Fields:
    """A route as RTM_NEWROUTE has it; `index` of an interface by its name."""
    message: Fields = {}
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
        attrs.append(["RTA_OIF", index(route.dev)])
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
        attrs.append(["RTA_MULTIPATH", [_leg(hop, route.dst.version, index) for hop in route.hops]])
    message["attrs"] = attrs
    return message


def _leg(hop: Hop, version: int, index: Callable[[str], int]) -> Fields:
    gateway = [_gateway(hop.gateway, version)] if hop.gateway is not None else []
    return {"oif": index(hop.dev), "hops": hop.weight - 1, "flags": hop.flags, "attrs": gateway}


def neighbour(message: Any, names: dict[int, str]) -> Neighbour | None:
    """RTM_NEWNEIGH, None for an entry that is not known to be true."""
    mac, dst = message.get_attr("NDA_LLADDR"), message.get_attr("NDA_DST")
    if not mac or not dst or message["family"] not in _AF.values() or not message["state"] & _NUD_USABLE:
        return None
    permanent = bool(message["state"] & _NUD_PERMANENT)
    return Neighbour(names.get(message["ifindex"], ""), ip_address(dst), mac, permanent)


def proxy(message: Any, names: dict[int, str]) -> Neighbour | None:
    """RTM_NEWNEIGH of the table of proxies."""
    dst = message.get_attr("NDA_DST")
    if not dst or message["family"] not in _AF.values():
        return None
    return Neighbour(names.get(message["ifindex"], ""), ip_address(dst), "", proxy=True)


def rule(message: Any) -> Rule:
    """RTM_NEWRULE."""
    attrs = [(name, value) for name, value in message["attrs"] if name != "FRA_PAD"]
    known = tuple(
        (name, value) for name, value in attrs if isinstance(value, int | str) and name[:3] == "FRA"
    )
    return Rule(
        version=4 if message["family"] == _AF[4] else 6,
        attrs=known,
        action=message["action"],
        src_len=message["src_len"],
        dst_len=message["dst_len"],
        tos=message["tos"],
        flags=message["flags"] & _FIB_RULE_INVERT,
        foreign=len(known) != len(attrs),
    )


def of_rule(rule: Rule) -> Fields:
    """A rule as RTM_NEWRULE has it."""
    table = rule.get("FRA_TABLE")
    return {
        "family": _AF[rule.version],
        "table": table if isinstance(table, int) and table < 256 else 0,
        "action": rule.action,
        "src_len": rule.src_len,
        "dst_len": rule.dst_len,
        "tos": rule.tos,
        "flags": rule.flags,
        "attrs": [list(item) for item in rule.attrs],
    }


def of_neighbour(neighbour: Neighbour, index: int) -> Fields:
    """An entry of the interface with this index, as RTM_NEWNEIGH has it."""
    if neighbour.proxy:
        return {
            "family": _AF[neighbour.ip.version],
            "ifindex": index,
            "flags": NTF_PROXY,
            "attrs": [["NDA_DST", str(neighbour.ip)]],
        }
    return {
        "family": _AF[neighbour.ip.version],
        "ifindex": index,
        "state": _NUD_PERMANENT if neighbour.permanent else _NUD_STALE,
        "attrs": [["NDA_DST", str(neighbour.ip)], ["NDA_LLADDR", neighbour.mac]],
    }
