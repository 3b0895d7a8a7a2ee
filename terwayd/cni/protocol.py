"""The CNI protocol as values: what a runtime asks, what it is told, in the words of its version.

Covers specification 0.1.0 to 1.1.0.  Pure: text in, values out; the errors carry the codes of the
specification's section 5.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from terwayd.errors import CniError, TerwayError

VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
NEWEST = VERSIONS[-1]

_NEEDS = {
    "ADD": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "CHECK": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "DEL": ("CNI_CONTAINERID", "CNI_IFNAME"),
    "GC": (),
    "STATUS": (),
    "VERSION": (),
}
_SINCE = {"CHECK": "0.4.0", "GC": "1.1.0", "STATUS": "1.1.0"}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]*")


@dataclass(frozen=True, slots=True)
class Call:
    """One CNI call; `config` is the network configuration as it came."""

    command: str
    version: str
    network: str = ""
    container_id: str = ""
    netns: str = ""
    ifname: str = ""
    args: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str, str]:
        return (self.network, self.container_id, self.ifname)


@dataclass(frozen=True, slots=True)
class Interface:
    name: str
    mac: str
    sandbox: str = ""
    mtu: int = 0


@dataclass(frozen=True, slots=True)
class Ip:
    """An address in CIDR form; `interface` is the index into the result's interfaces."""

    address: str
    gateway: str = ""
    interface: int = 0


@dataclass(frozen=True, slots=True)
class RouteTo:
    dst: str
    gw: str = ""


@dataclass(frozen=True, slots=True)
class Dns:
    nameservers: tuple[str, ...] = ()
    domain: str = ""
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Result:
    """What an ADD made, whatever the version."""

    interfaces: tuple[Interface, ...]
    ips: tuple[Ip, ...]
    routes: tuple[RouteTo, ...] = ()
    dns: Dns = Dns()


def parse(environment: Mapping[str, str], stdin: str) -> Call:
    """The call that a runtime made.  Raises CniError for what the specification forbids."""
    command = environment.get("CNI_COMMAND", "")
    if command not in _NEEDS:
        known = ", ".join(_NEEDS)
        raise CniError(
            4, f"CNI_COMMAND={command!r} is none of {known}" if command else "CNI_COMMAND is not set"
        )
    if missing := [name for name in _NEEDS[command] if not environment.get(name)]:
        raise CniError(4, f"{command}: required variables are not set: {', '.join(missing)}")
    config = _config(command, stdin)
    version = config.get("cniVersion")
    if version is None or version == "":
        version = VERSIONS[0]
    if command == "VERSION":
        return Call(command, version if isinstance(version, str) else NEWEST)
    if version not in VERSIONS:
        raise CniError(1, f"cniVersion {version!r} is not supported: {', '.join(VERSIONS)} are")
    if order(version) < order(_SINCE.get(command, VERSIONS[0])):
        raise CniError(1, f"{command} needs cniVersion {_SINCE[command]}, the configuration says {version}")
    network = config.get("name")
    if not isinstance(network, str) or not _NAME.fullmatch(network):
        raise CniError(
            7, f"the network's name {network!r} is missing or not made of letters, digits, '_', '.', '-'"
        )
    container_id, ifname = environment.get("CNI_CONTAINERID", ""), environment.get("CNI_IFNAME", "")
    if container_id and not _NAME.fullmatch(container_id):
        raise CniError(4, f"CNI_CONTAINERID={container_id!r} is not made of letters, digits, '_', '.', '-'")
    if ifname and not _is_interface(ifname):
        raise CniError(4, f"CNI_IFNAME={ifname!r} is no interface name: 1 to 15 bytes without / : % or space")
    args = arguments(environment)
    return Call(
        command, version, network, container_id, environment.get("CNI_NETNS", ""), ifname, args, config
    )


def _config(command: str, stdin: str) -> Mapping[str, Any]:
    if command == "VERSION" and not stdin.strip():
        return {"cniVersion": NEWEST}
    try:
        config = json.loads(stdin)
    except (ValueError, RecursionError) as error:
        raise CniError(6, f"standard input is no network configuration: {error}") from None
    if not isinstance(config, dict):
        raise CniError(
            6, f"standard input is no network configuration: a {type(config).__name__}, not an object"
        )
    return config


def _is_interface(name: str) -> bool:
    """What the kernel takes; "%" would have it choose a number."""
    bad = re.search(r"[/:%\s\0\ud800-\udfff]", name)  # the last are bytes that are no UTF-8
    return bad is None and len(name.encode()) < 16 and name not in {".", ".."}


def arguments(environment: Mapping[str, str]) -> dict[str, str]:
    """CNI_ARGS, "K=V;K=V": a part without "=" is left out; what is no UTF-8 becomes "?"."""
    known = environment.get("CNI_ARGS", "").encode(errors="replace").decode()
    return dict(part.split("=", 1) for part in known.split(";") if "=" in part)


@dataclass(frozen=True, slots=True)
class Previous:
    """What a prevResult tells: addresses in CIDR form, routes as destination and gateway ("" for none)."""

    addresses: frozenset[str]
    routes: frozenset[tuple[str, str]]


def previous(call: Call) -> Previous | None:
    """The prevResult, in the shape of any version; None without one.  CniError when it is no result."""
    given = call.config.get("prevResult")
    if given is None:
        return None
    if not isinstance(given, dict):
        raise CniError(7, f"prevResult is no result: {json.dumps(given)[:200]}")
    old = [part for part in (given.get("ip4"), given.get("ip6")) if isinstance(part, dict)]
    ips = [*_objects(given.get("ips")), *({"address": part.get("ip")} for part in old)]
    routes = [*_objects(given.get("routes")), *(r for part in old for r in _objects(part.get("routes")))]
    return Previous(
        frozenset(str(ip.get("address")) for ip in ips),
        frozenset((str(route.get("dst")), str(route.get("gw") or "")) for route in routes),
    )


def _objects(given: Any) -> list[dict[str, Any]]:
    return [item for item in given if isinstance(item, dict)] if isinstance(given, list) else []


def valid_attachments(call: Call) -> set[tuple[str, str]] | None:
    """Container ID and interface name of what a GC calls valid; None when it says nothing of that.

    The key had another name once, and null is how CRI-O says "none".  CniError for anything else: what
    is not understood must not cost a pod its interface.
    """
    key = next((k for k in ("cni.dev/valid-attachments", "cni.dev/attachments") if k in call.config), "")
    given = call.config.get(key)
    if given is None:
        return set() if key else None
    pairs = [_pair(item) for item in given] if isinstance(given, list) else [None]
    if None in pairs:
        raise CniError(7, f'{key} is no list of {{"containerID", "ifname"}}: {json.dumps(given)[:200]}')
    return {pair for pair in pairs if pair is not None}


def _pair(item: Any) -> tuple[str, str] | None:
    match item:
        case {"containerID": str(container_id), "ifname": str(ifname)}:
            return container_id, ifname
    return None


def order(version: str) -> int:
    return VERSIONS.index(version)


def result(made: Result, version: str) -> dict[str, Any]:
    """`made` in the shape of `version` (specification, appendix on conversion)."""
    if order(version) < order("0.3.0"):
        return _result_020(made, version)
    ips = [
        _without_empty({"address": ip.address, "gateway": ip.gateway}) | {"interface": ip.interface}
        for ip in made.ips
    ]
    if order(version) < order("1.0.0"):
        ips = [{"version": "6" if ":" in ip["address"] else "4", **ip} for ip in ips]
    mtu = order(version) >= order("1.1.0")
    interfaces = [
        _without_empty({"name": i.name, "mac": i.mac, "sandbox": i.sandbox, "mtu": i.mtu if mtu else 0})
        for i in made.interfaces
    ]
    shaped = {
        "cniVersion": version,
        "interfaces": interfaces,
        "ips": ips,
        "routes": [_without_empty({"dst": route.dst, "gw": route.gw}) for route in made.routes],
        "dns": _dns(made.dns),
    }
    return {key: value for key, value in shaped.items() if value or key in {"interfaces", "ips"}}


def _result_020(made: Result, version: str) -> dict[str, Any]:
    shaped: dict[str, Any] = {"cniVersion": version}
    for ip in made.ips:
        six = ":" in ip.address
        if (family := "ip6" if six else "ip4") not in shaped:
            routes = [
                _without_empty({"dst": r.dst, "gw": r.gw}) for r in made.routes if (":" in r.dst) == six
            ]
            shaped[family] = {**_without_empty({"ip": ip.address, "gateway": ip.gateway}), "routes": routes}
    dns = _dns(made.dns)
    return {**shaped, "dns": dns} if dns else shaped


def _dns(dns: Dns) -> dict[str, Any]:
    return _without_empty(
        {
            "nameservers": list(dns.nameservers),
            "domain": dns.domain,
            "search": list(dns.search),
            "options": list(dns.options),
        }
    )


def _without_empty(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value}


def behind(shaped: dict[str, Any], call: Call) -> dict[str, Any]:
    """`shaped` behind the prevResult of an ADD, when there is one: the plugins before us made that.

    Both are of the call's version.  Chains came with 0.3.0 (specification, "Network Configuration Lists").
    """
    before = call.config.get("prevResult")
    if not isinstance(before, dict) or order(call.version) < order("0.3.0"):
        return shaped
    made = _objects(before.get("interfaces"))
    ours = [{**ip, "interface": ip["interface"] + len(made)} for ip in shaped["ips"]]
    merged = {
        **before,
        "cniVersion": call.version,
        "interfaces": [*made, *shaped["interfaces"]],
        "ips": [*_objects(before.get("ips")), *ours],
        "routes": [*_objects(before.get("routes")), *shaped.get("routes", [])],
        "dns": before.get("dns") or shaped.get("dns") or {},
    }
    return {key: value for key, value in merged.items() if value or key in {"interfaces", "ips"}}


def versions(asked: str) -> dict[str, Any]:
    """The answer to VERSION."""
    return {"cniVersion": asked, "supportedVersions": list(VERSIONS)}


def error(failure: TerwayError, version: str) -> dict[str, Any]:
    """The error object of section 5; the hint is its details."""
    shaped = {
        "cniVersion": version,
        "code": failure.cni_code,
        "msg": failure.message,
        "details": f"hint: {failure.hint}" if failure.hint else "",
    }
    return _without_empty(shaped)


def version_of(stdin: str) -> str:
    """The cniVersion of a configuration that may be garbage: errors are told in it."""
    try:
        version = json.loads(stdin)["cniVersion"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return NEWEST
    return version if version in VERSIONS else NEWEST
