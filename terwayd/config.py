"""/etc/terway.toml as a frozen value: every key has a default, so that an empty file works.

Parsing is strict: an unknown key or a value of the wrong type is an error that names the key, and
the nearest right name.  This file does not read files; it gets the text.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable
from dataclasses import Field, dataclass, field, fields, replace
from ipaddress import IPv4Address
from typing import Any

from terwayd import keys
from terwayd.errors import ConfigError

DEFAULT_PATH = "/etc/terway.toml"

Network = keys.Network


def _key(default: Any, parse: Callable[[object], Any], *, live: bool = False) -> Any:
    """A key; a `live` one can be changed while the daemon runs, by a reload."""
    return field(default=default, metadata={"parse": parse, "live": live})


@dataclass(frozen=True, slots=True)
class HostConfig:
    """[host]: the NIC and the bridge."""

    uplink: str = _key("auto", keys.interface)
    bridge: str = _key("mybr0", keys.interface)
    address: str | tuple[keys.Interface, ...] = _key("keep", keys.address)
    gateway: tuple[keys.Address, ...] = _key((), keys.hosts)
    dns: tuple[keys.Address, ...] = _key((), keys.hosts)
    mtu: int = _key(0, keys.mtu)
    verify: tuple[str, ...] = _key(("gateway",), keys.targets, live=True)
    verify_timeout: float = _key(10.0, keys.duration, live=True)
    confirm_timeout: float = _key(90.0, keys.duration, live=True)


@dataclass(frozen=True, slots=True)
class DhcpConfig:
    """[dhcp]: what the pods' DHCP clients send, and how long they wait (seconds)."""

    timeout: float = _key(60.0, keys.duration, live=True)
    client_id: str = _key("pod", keys.one_of("pod", "container", "mac"), live=True)
    hostname: bool | str = _key(True, keys.host_name, live=True)
    vendor_class: str = _key("terwayd", keys.text, live=True)
    request: tuple[int, ...] = _key((), keys.codes, live=True)
    rapid_commit: bool = _key(False, keys.flag)
    conflict_detection: str = _key("off", keys.one_of("off", "fast", "full"))
    discover_rate: int = _key(50, keys.rate, live=True)
    servers: tuple[IPv4Address, ...] | None = _key(None, keys.servers, live=True)


@dataclass(frozen=True, slots=True)
class PodsConfig:
    """[pods]: the pods' interfaces and routes.  `service_cidrs` is None for "auto"."""

    mac: str = _key("stable", keys.one_of("stable", "random"), live=True)
    service_cidrs: tuple[Network, ...] | None = _key(None, keys.cidrs, live=True)
    default_route: bool = _key(True, keys.flag, live=True)
    mtu: int = _key(0, keys.mtu, live=True)
    ipv6: str = _key("slaac", keys.one_of("slaac", "off"), live=True)
    lost_lease: str = _key("keep", keys.one_of("keep", "replace", "down"), live=True)
    antispoof: bool = _key(True, keys.flag)


@dataclass(frozen=True, slots=True)
class CniConfig:
    """[cni]: where the container runtimes look, what follows our plugin, how long an ADD may take (seconds)."""

    name: str = _key("terway", keys.name, live=True)
    bin_dirs: tuple[str, ...] = _key(("/opt/cni/bin",), keys.paths, live=True)
    conf_dir: str = _key("/etc/cni/net.d", keys.path, live=True)
    chain: tuple[str | dict[str, Any], ...] = _key((), keys.chain, live=True)
    add_timeout: float = _key(90.0, keys.add_timeout, live=True)


@dataclass(frozen=True, slots=True)
class MetricsConfig:
    """[metrics]: where Prometheus may read by TCP."""

    listen: str = _key("", keys.listen)


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
