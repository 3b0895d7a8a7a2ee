"""Addresses and routes in the words that ip-address(8) and ip-route(8) take.  Pure."""

from __future__ import annotations

from terwayd.model import (
    IFA_F_NODAD,
    IFA_F_NOPREFIXROUTE,
    RTNH_F_ONLINK,
    TABLE_MAIN,
    Address,
    Neighbour,
    Route,
    Rule,
)

_SCOPES = {0: "global", 200: "site", 253: "link", 254: "host"}
_PROTOS = {1: "redirect", 2: "kernel", 3: "boot", 4: "static", 9: "ra", 16: "dhcp"}
_PREFS = {0: "medium", 1: "high", 3: "low"}
_IFA_F_MANAGETEMPADDR = 0x100
_FEATURE_ECN = 1
# Of linux/rtnetlink.h: what RTAX_LOCK has a bit for.
_LOCKABLE = {"RTAX_MTU": 2, "RTAX_WINDOW": 3, "RTAX_RTT": 4, "RTAX_RTTVAR": 5, "RTAX_SSTHRESH": 6}
_LOCKABLE |= {"RTAX_CWND": 7, "RTAX_ADVMSS": 8, "RTAX_REORDERING": 9}  # `ip` locks rto_min by itself
_METRIC_WORDS = {"RTAX_CC_ALGO": "congctl"}
_RULE_WORDS = {
    "iif": "FRA_IIFNAME",
    "oif": "FRA_OIFNAME",
    "uidrange": "FRA_UID_RANGE",
    "ipproto": "FRA_IP_PROTO",
}
_RULE_WORDS |= {"sport": "FRA_SPORT_RANGE", "dport": "FRA_DPORT_RANGE", "tun_id": "FRA_TUN_ID"}
_SUPPRESSED = {"suppress_prefixlength": "FRA_SUPPRESS_PREFIXLEN", "suppress_ifgroup": "FRA_SUPPRESS_IFGROUP"}
_RULE_TYPES = {3: "nop", 6: "blackhole", 7: "unreachable", 8: "prohibit"}
_INVERT, _TO_TABLE, _GOTO, _NONE = 0x2, 1, 2, 0xFFFFFFFF
_TYPES = {1: "", 6: "blackhole ", 7: "unreachable ", 8: "prohibit "}


def interface_words(address: Address) -> str:
    if address.peer is None:
        return str(address.interface)
    return f"{address.interface.ip} peer {address.peer}/{address.interface.network.prefixlen}"


def address_words(address: Address) -> str:
    words = [interface_words(address)]
    if address.broadcast is not None:
        words += ["brd", str(address.broadcast)]
    words += ["dev", address.dev]
    if address.label and address.label != address.dev:
        words += ["label", address.label]
    if address.scope:
        words += ["scope", _SCOPES.get(address.scope, str(address.scope))]
    if address.metric:
        words += ["metric", str(address.metric)]
    if address.valid is not None or address.preferred is not None:
        words += ["valid_lft", _seconds(address.valid), "preferred_lft", _seconds(address.preferred)]
    if address.flags & IFA_F_NOPREFIXROUTE:
        words.append("noprefixroute")
    if address.flags & _IFA_F_MANAGETEMPADDR:
        words.append("mngtmpaddr")
    if address.flags & IFA_F_NODAD or address.interface.version == 6:
        words.append("nodad")
    return " ".join(words)


def neighbour_words(n: Neighbour) -> str:
    if n.proxy:
        return f"ip neigh add proxy {n.ip} dev {n.dev}"
    nud = "permanent" if n.permanent else "stale"
    return f"ip neigh replace {n.ip} lladdr {n.mac} dev {n.dev} nud {nud}"


def rule_words(rule: Rule) -> str:
    """As ip-rule(8) takes it, after the word rule and the verb."""
    known = dict(rule.attrs)
    words = ["not"] if rule.flags & _INVERT else []
    for word, name, length in (("from", "FRA_SRC", rule.src_len), ("to", "FRA_DST", rule.dst_len)):
        words += [word, f"{known[name]}/{length}"] if name in known else []
    words += ["tos", hex(rule.tos)] if rule.tos else []
    if "FRA_FWMARK" in known:
        words += ["fwmark", f"{known['FRA_FWMARK']:#x}/{known.get('FRA_FWMASK', 0xFFFFFFFF):#x}"]
    for word, name in _RULE_WORDS.items():
        words += [word, str(known[name]).replace(":", "-")] if name in known else []
    if rule.action == _TO_TABLE:
        words += ["table", str(known.get("FRA_TABLE", 0))]
        for word, name in _SUPPRESSED.items():
            words += [word, str(known[name])] if known.get(name, _NONE) != _NONE else []
    elif rule.action == _GOTO:
        words += ["goto", str(known["FRA_GOTO"])]
    else:
        words.append(_RULE_TYPES.get(rule.action, f"type{rule.action}"))
    words += (
        ["protocol", _PROTOS.get(int(known["FRA_PROTOCOL"]), str(known["FRA_PROTOCOL"]))]
        if known.get("FRA_PROTOCOL")
        else []
    )
    return " ".join([*words, "priority", str(known.get("FRA_PRIORITY", 0))])


def _seconds(time: int | None) -> str:
    return "forever" if time is None else str(time)


def ip_word(route: Route) -> str:
    """`default` alone does not tell which family it is of."""
    return "ip -6" if route.dst.version == 6 and route.dst.prefixlen == 0 else "ip"


def route_words(route: Route) -> str:
    dst = "default" if route.dst.prefixlen == 0 else str(route.dst)
    words = [_TYPES.get(route.type, f"type{route.type} ") + dst]
    words += ["tos", hex(route.tos)] if route.tos else []
    words += _leg(route.dst.version, route.gateway, route.dev)
    if route.table != TABLE_MAIN:
        words += ["table", str(route.table)]
    words += ["proto", _PROTOS.get(route.proto, str(route.proto))]
    if route.scope:
        words += ["scope", _SCOPES.get(route.scope, str(route.scope))]
    if route.prefsrc is not None:
        words += ["src", str(route.prefsrc)]
    if route.priority:
        words += ["metric", str(route.priority)]
    words += _metrics(route.metrics)
    if route.flags & RTNH_F_ONLINK:
        words.append("onlink")
    words += ["expires", str(route.expires)] if route.expires is not None else []
    words += ["pref", _PREFS.get(route.pref, str(route.pref))] if route.pref else []
    for hop in route.hops:
        words += ["nexthop", *_leg(route.dst.version, hop.gateway, hop.dev), "weight", str(hop.weight)]
        words += ["onlink"] if hop.flags & RTNH_F_ONLINK else []
    return " ".join(words)


def _metrics(metrics: tuple[tuple[str, int | str], ...]) -> list[str]:
    """As ip-route(8) takes them: what is locked is said with each, times have units, features names."""
    locked = next((int(value) for name, value in metrics if name == "RTAX_LOCK"), 0)
    words: list[str] = []
    for name, value in metrics:
        if name == "RTAX_LOCK":
            continue
        words.append(_METRIC_WORDS.get(name, name.removeprefix("RTAX_").lower()))
        if name in _LOCKABLE and locked >> _LOCKABLE[name] & 1:
            words.append("lock")
        if name == "RTAX_FEATURES" and value == _FEATURE_ECN:
            words.append("ecn")
        else:
            words.append(f"{value}ms" if name == "RTAX_RTO_MIN" else str(value))
    return words


def _leg(version: int, gateway: object, dev: str) -> list[str]:
    words = []
    if gateway is not None:
        family = getattr(gateway, "version", version)
        words += ["via", str(gateway)] if family == version else ["via", f"inet{family}", str(gateway)]
    return [*words, "dev", dev] if dev else words
