"""/etc/terway.toml as a frozen value: every key has a default, so that an empty file works.

Parsing is strict: an unknown key or a value of the wrong type is an error that names the key, and
the nearest right name.  This file does not read files; it gets the text.
"""

from __future__ import annotations

import difflib
import ipaddress
import json
import re
import tomllib
from collections.abc import Callable
from dataclasses import Field, dataclass, field, fields, replace
from typing import Any, cast

from terwayd.errors import ConfigError

DEFAULT_PATH = "/etc/terway.toml"

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("a string")
    return value


def _interface(value: object) -> str:
    name = _text(value)
    if not 0 < len(name.encode()) < 16 or name in {".", ".."} or re.search(r"[\s\0/:%]", name):
        raise ValueError("an interface name: 1 to 15 bytes without space, slash, colon or percent sign")
    return name


def _name(value: object) -> str:
    name = _text(value)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise ValueError("a CNI network name: letters, digits, '_', '.', '-'")
    return name


def _path(value: object) -> str:
    path = _text(value)
    if not path.startswith("/") or "\0" in path:
        raise ValueError("an absolute path")
    return path


def _paths(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError("a list of absolute paths")
    return tuple(_path(item) for item in value)


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError("true or false")
    return value


def _chain(value: object) -> tuple[str | dict[str, Any], ...]:
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


def _duration(value: object) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|m|min|h)", value) if isinstance(value, str) else None
    if match is None or float(match[1]) == 0:
        raise ValueError('a time such as "60s", "500ms" or "2m"')
    return float(match[1]) * _UNITS[match[2]]


def _add_timeout(value: object) -> float:
    seconds = _duration(value)
    if seconds > 240:
        raise ValueError('at most "240s": the plugin waits no longer, nor does kubelet')
    return seconds


def _mtu(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or (value != 0 and not 576 <= value <= 65535):
        raise ValueError("0 (as the bridge) or a number from 576 to 65535")
    return value


def _rate(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 10000:
        raise ValueError("a number from 1 to 10000")
    return value


def _host_name(value: object) -> bool | str:
    if not isinstance(value, bool) and value != "fqdn":
        raise ValueError('true, false or "fqdn"')
    return cast("bool | str", value)


def _codes(value: object) -> tuple[int, ...]:
    expected = "a list of DHCP option numbers from 1 to 254, such as [66, 150]"
    if not isinstance(value, list):
        raise TypeError(expected)
    for item in value:
        if not isinstance(item, int) or isinstance(item, bool) or not 1 <= item <= 254:
            raise ValueError(expected)
    return tuple(dict.fromkeys(value))


def _servers(value: object) -> tuple[ipaddress.IPv4Address, ...] | None:
    if value == "any":
        return None
    expected = '"any" or a list of IPv4 addresses such as ["192.0.2.1"]'
    if not isinstance(value, list) or not value:
        raise TypeError(expected)
    try:
        return tuple(ipaddress.IPv4Address(_text(item)) for item in value)
    except (ValueError, TypeError):
        raise ValueError(expected) from None


def _cidrs(value: object) -> tuple[Network, ...] | None:
    if value == "auto":
        return None
    if not isinstance(value, list):
        raise TypeError('"auto" or a list of networks such as ["10.96.0.0/12"]')
    try:
        return tuple(ipaddress.ip_network(_text(item)) for item in value)
    except (ValueError, TypeError) as error:
        raise ValueError(f"networks such as 10.96.0.0/12 ({error})") from None


def _targets(value: object) -> tuple[str, ...]:
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


def _listen(value: object) -> str:
    expected = '"" or "ADDRESS:PORT", such as "127.0.0.1:9753" or "[::]:9753"'
    text = _text(value)
    address, _, port = text.rpartition(":")
    try:
        if text and not (ipaddress.ip_address(address.strip("[]")) and 0 < int(port) < 65536):
            raise ValueError(expected)
    except ValueError:
        raise ValueError(expected) from None
    return text


def _address(value: object) -> str | tuple[Interface, ...]:
    expected = '"keep", "dhcp", or a list of addresses with their prefix length such as ["192.0.2.10/24"]'
    if value in ("keep", "dhcp"):
        return cast("str", value)
    if not isinstance(value, list):
        raise TypeError(expected)
    try:
        if all("/" in _text(item) for item in value):
            return tuple(ipaddress.ip_interface(item) for item in value)
    except (ValueError, TypeError):
        pass
    raise ValueError(expected)


def _hosts(value: object) -> tuple[Address, ...]:
    if not isinstance(value, list):
        raise TypeError('a list of addresses such as ["192.0.2.1"]')
    try:
        return tuple(ipaddress.ip_address(_text(item)) for item in value)
    except (ValueError, TypeError):
        raise ValueError('a list of addresses such as ["192.0.2.1"]') from None


def _one_of(*choices: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        if value not in choices:
            raise ValueError(" or ".join(f'"{choice}"' for choice in choices))
        return cast("str", value)

    return parse


def _key(default: Any, parse: Callable[[object], Any], *, live: bool = False) -> Any:
    """A key; a `live` one can be changed while the daemon runs, by a reload."""
    return field(default=default, metadata={"parse": parse, "live": live})


@dataclass(frozen=True, slots=True)
class HostConfig:
    """[host]: the NIC and the bridge."""

    uplink: str = _key("auto", _interface)
    bridge: str = _key("mybr0", _interface)
    address: str | tuple[Interface, ...] = _key("keep", _address)
    gateway: tuple[Address, ...] = _key((), _hosts)
    dns: tuple[Address, ...] = _key((), _hosts)
    mtu: int = _key(0, _mtu)
    verify: tuple[str, ...] = _key(("gateway",), _targets, live=True)
    verify_timeout: float = _key(10.0, _duration, live=True)
    confirm_timeout: float = _key(90.0, _duration, live=True)


@dataclass(frozen=True, slots=True)
class DhcpConfig:
    """[dhcp]: what the pods' DHCP clients send, and how long they wait (seconds)."""

    timeout: float = _key(60.0, _duration, live=True)
    client_id: str = _key("pod", _one_of("pod", "container", "mac"), live=True)
    hostname: bool | str = _key(True, _host_name, live=True)
    vendor_class: str = _key("terwayd", _text, live=True)
    request: tuple[int, ...] = _key((), _codes, live=True)
    rapid_commit: bool = _key(False, _flag)
    conflict_detection: str = _key("off", _one_of("off", "fast", "full"))
    discover_rate: int = _key(50, _rate, live=True)
    servers: tuple[ipaddress.IPv4Address, ...] | None = _key(None, _servers, live=True)


@dataclass(frozen=True, slots=True)
class PodsConfig:
    """[pods]: the pods' interfaces and routes.  `service_cidrs` is None for "auto"."""

    mac: str = _key("stable", _one_of("stable", "random"), live=True)
    service_cidrs: tuple[Network, ...] | None = _key(None, _cidrs, live=True)
    default_route: bool = _key(True, _flag, live=True)
    mtu: int = _key(0, _mtu, live=True)
    ipv6: str = _key("slaac", _one_of("slaac", "off"), live=True)
    lost_lease: str = _key("keep", _one_of("keep", "replace", "down"), live=True)
    antispoof: bool = _key(True, _flag)


@dataclass(frozen=True, slots=True)
class CniConfig:
    """[cni]: where the container runtimes look, what follows our plugin, how long an ADD may take (seconds)."""

    name: str = _key("terway", _name, live=True)
    bin_dirs: tuple[str, ...] = _key(("/opt/cni/bin",), _paths, live=True)
    conf_dir: str = _key("/etc/cni/net.d", _path, live=True)
    chain: tuple[str | dict[str, Any], ...] = _key((), _chain, live=True)
    add_timeout: float = _key(90.0, _add_timeout, live=True)


@dataclass(frozen=True, slots=True)
class MetricsConfig:
    """[metrics]: where Prometheus may read by TCP."""

    listen: str = _key("", _listen)


@dataclass(frozen=True, slots=True)
class Config:
    """The whole of /etc/terway.toml."""

    host: HostConfig = HostConfig()
    dhcp: DhcpConfig = DhcpConfig()
    pods: PodsConfig = PodsConfig()
    cni: CniConfig = CniConfig()
    metrics: MetricsConfig = MetricsConfig()
    path: str = DEFAULT_PATH


@dataclass(frozen=True, slots=True)
class Reload:
    """What a reload comes to: the configuration in force, what it changed, and what waits for a restart."""

    config: Config
    applied: tuple[str, ...]
    waiting: tuple[str, ...]


def reload(running: Config, wanted: Config) -> Reload:
    """`wanted` as far as a daemon that runs with `running` can have it; keys are named as "dhcp.timeout"."""
    sections, applied, waiting = {}, [], []
    for name in _SECTIONS:
        before, after = getattr(running, name), getattr(wanted, name)
        changed = [item for item in fields(before) if getattr(before, item.name) != getattr(after, item.name)]
        live = [item.name for item in changed if item.metadata["live"]]
        applied += [f"{name}.{key}" for key in live]
        waiting += [f"{name}.{item.name}" for item in changed if item.name not in live]
        sections[name] = replace(before, **{key: getattr(after, key) for key in live})
    return Reload(replace(running, **sections), tuple(applied), tuple(waiting))


_SECTIONS: dict[str, type] = {
    "host": HostConfig,
    "dhcp": DhcpConfig,
    "pods": PodsConfig,
    "cni": CniConfig,
    "metrics": MetricsConfig,
}


def parse(text: str, path: str = DEFAULT_PATH) -> Config:
    """The configuration that `text` asks for; `path` is only for messages.

    Raises ConfigError, naming the key, for anything that is not understood.
    """
    try:
        raw = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: also a number of thousands of digits
        raise ConfigError(f"{path} is not TOML: {error}", hint=f"mend that line of {path}") from None
    sections = {}
    for name, values in raw.items():
        if name not in _SECTIONS:
            raise _unknown(path, f"[{name}]", name, _SECTIONS)
        if not isinstance(values, dict):
            raise ConfigError(
                f"{path}: {name} must be a section", hint=f"write [{name}] on a line of its own"
            )
        sections[name] = _section(path, name, values)
    config = Config(path=path, **sections)
    _on_link(config.host, path)
    return config


def values(config: Config) -> dict[str, dict[str, Any]]:
    """Every key by section, as it is written in the file; `parse` makes the same configuration of it."""
    return {
        name: {item.name: _written(getattr(getattr(config, name), item.name), item) for item in fields(kind)}
        for name, kind in _SECTIONS.items()
    }


def _written(value: Any, key: Field[Any]) -> Any:
    if value is None:
        return next(word for word in ("auto", "any") if _means(word, key, None))
    if isinstance(value, float):
        return f"{value:f}".rstrip("0").rstrip(".") + "s"
    if isinstance(value, tuple):
        return [_written(item, key) for item in value]
    return value if isinstance(value, str | int | dict) else str(value)


def _means(word: str, key: Field[Any], value: object) -> bool:
    try:
        return bool(key.metadata["parse"](word) == value)
    except (ValueError, TypeError):
        return False


def _on_link(host: HostConfig, path: str) -> None:
    """Raise ConfigError for a gateway that none of the addresses reaches."""
    networks = [address.network for address in host.address if not isinstance(address, str)]
    for gateway in host.gateway:
        if not gateway.is_link_local and not any(gateway in network for network in networks):
            raise ConfigError(
                f"{path}: host.gateway {gateway} is in the network of none of host.address",
                hint='address and gateway go together, such as address = ["192.0.2.10/24"], gateway = ["192.0.2.1"]',
            )


def _section(path: str, name: str, values: dict[str, object]) -> Any:
    parsers = {item.name: item.metadata["parse"] for item in fields(_SECTIONS[name])}
    parsed = {}
    for key, value in values.items():
        if key not in parsers:
            raise _unknown(path, f"{name}.{key}", key, parsers)
        try:
            parsed[key] = parsers[key](value)
        except (ValueError, TypeError) as error:
            raise ConfigError(
                f"{path}: {name}.{key} = {value!r} is wrong: expected {error}",
                hint=f"mend {key} under [{name}], or remove the line for its default",
            ) from None
    return _SECTIONS[name](**parsed)


def _unknown(path: str, shown: str, key: str, known: dict[str, Any]) -> ConfigError:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f'did you mean "{near[0]}"?' if near else "known here: " + ", ".join(known)
    return ConfigError(f"{path}: unknown {shown}", hint=hint)
