"""What a key of terway.toml may be: each function makes our value of TOML's, or says what was expected.

It raises ValueError or TypeError whose text completes "expected ...".
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Callable
from typing import Any, cast

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("a string")
    return value


def interface(value: object) -> str:
    name = text(value)
    if not 0 < len(name.encode()) < 16 or name in {".", ".."} or re.search(r"[\s\0/:%]", name):
        raise ValueError("an interface name: 1 to 15 bytes without space, slash, colon or percent sign")
    return name


def name(value: object) -> str:
    name = text(value)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise ValueError("a CNI network name: letters, digits, '_', '.', '-'")
    return name


def path(value: object) -> str:
    path = text(value)
    if not path.startswith("/") or "\0" in path:
        raise ValueError("an absolute path")
    return path


def paths(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError("a list of absolute paths")
    return tuple(path(item) for item in value)


def flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError("true or false")
    return value


def chain(value: object) -> tuple[str | dict[str, Any], ...]:
    """Names of plugins, or what their entries in the network's list of plugins say."""
    expected = 'a list of plugins such as ["portmap", { type = "tuning", sysctl = { ... } }]'
    if not isinstance(value, list):
        raise TypeError(expected)
    for item in value:
        name = item.get("type") if isinstance(item, dict) else item
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
            raise ValueError(expected)
        if name == "cni-terway":
            raise ValueError("plugins to follow cni-terway, not itself")
        try:
            json.dumps(item)
        except TypeError as error:
            raise ValueError(f"values that JSON has ({error})") from None
    return tuple(value)


_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def duration(value: object) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|m|min|h)", value) if isinstance(value, str) else None
    if match is None or float(match[1]) == 0:
        raise ValueError('a time such as "60s", "500ms" or "2m"')
    return float(match[1]) * _UNITS[match[2]]


def add_timeout(value: object) -> float:
    seconds = duration(value)
    if seconds > 240:
        raise ValueError('at most "240s": the plugin waits no longer, nor does kubelet')
    return seconds


def mtu(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or (value != 0 and not 576 <= value <= 65535):
        raise ValueError("0 (as the bridge) or a number from 576 to 65535")
    return value


def rate(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 10000:
        raise ValueError("a number from 1 to 10000")
    return value


def host_name(value: object) -> bool | str:
    if not isinstance(value, bool) and value != "fqdn":
        raise ValueError('true, false or "fqdn"')
    return cast("bool | str", value)


def codes(value: object) -> tuple[int, ...]:
    expected = "a list of DHCP option numbers from 1 to 254, such as [66, 150]"
    if not isinstance(value, list):
        raise TypeError(expected)
    for item in value:
        if not isinstance(item, int) or isinstance(item, bool) or not 1 <= item <= 254:
            raise ValueError(expected)
    return tuple(dict.fromkeys(value))


def servers(value: object) -> tuple[ipaddress.IPv4Address, ...] | None:
    if value == "any":
        return None
    expected = '"any" or a list of IPv4 addresses such as ["192.0.2.1"]'
    if not isinstance(value, list) or not value:
        raise TypeError(expected)
    try:
        return tuple(ipaddress.IPv4Address(text(item)) for item in value)
    except (ValueError, TypeError):
        raise ValueError(expected) from None


def cidrs(value: object) -> tuple[Network, ...] | None:
    if value == "auto":
        return None
    if not isinstance(value, list):
        raise TypeError('"auto" or a list of networks such as ["10.96.0.0/12"]')
    try:
        return tuple(ipaddress.ip_network(text(item)) for item in value)
    except (ValueError, TypeError) as error:
        raise ValueError(f"networks such as 10.96.0.0/12 ({error})") from None


def targets(value: object) -> tuple[str, ...]:
    expected = '"gateway" or "tcp:ADDRESS:PORT", such as ["gateway", "tcp:192.0.2.5:6443"]'
    if not isinstance(value, list):
        raise TypeError(f"a list of {expected}")
    for item in value:
        address, _, port = (
            item.removeprefix("tcp:").rpartition(":") if isinstance(item, str) else ("", "", "")
        )
        try:
            known = item == "gateway" or (
                item.startswith("tcp:") and ipaddress.ip_address(address.strip("[]"))
            )
            if not known or (item != "gateway" and not 0 < int(port) < 65536):
                raise ValueError(expected)
        except (ValueError, AttributeError):
            raise ValueError(f"a list of {expected}") from None
    return tuple(value)


def listen(value: object) -> str:
    expected = '"" or "ADDRESS:PORT", such as "127.0.0.1:9753" or "[::]:9753"'
    where = text(value)
    address, _, port = where.rpartition(":")
    try:
        if where and not (ipaddress.ip_address(address.strip("[]")) and 0 < int(port) < 65536):
            raise ValueError(expected)
    except ValueError:
        raise ValueError(expected) from None
    return where


def address(value: object) -> str | tuple[Interface, ...]:
    expected = '"keep", "dhcp", or a list of addresses with their prefix length such as ["192.0.2.10/24"]'
    if value in ("keep", "dhcp"):
        return cast("str", value)
    if not isinstance(value, list):
        raise TypeError(expected)
    try:
        if all("/" in text(item) for item in value):
            return tuple(ipaddress.ip_interface(item) for item in value)
    except (ValueError, TypeError):
        pass
    raise ValueError(expected)


def hosts(value: object) -> tuple[Address, ...]:
    if not isinstance(value, list):
        raise TypeError('a list of addresses such as ["192.0.2.1"]')
    try:
        return tuple(ipaddress.ip_address(text(item)) for item in value)
    except (ValueError, TypeError):
        raise ValueError('a list of addresses such as ["192.0.2.1"]') from None


def one_of(*choices: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        if value not in choices:
            raise ValueError(" or ".join(f'"{choice}"' for choice in choices))
        return cast("str", value)

    return parse
