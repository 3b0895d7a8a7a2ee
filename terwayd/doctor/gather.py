"""Gathering the facts of this host: files, processes, netlink, nft.  Changes nothing.

Runs in terwayctl, as root, with and without a daemon.
"""

from __future__ import annotations

import ctypes
import os
import socket
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from terwayd import offline
from terwayd.cni.install import CONFLIST, PLUGIN, SHIM, prepared
from terwayd.config import CniConfig, Config
from terwayd.daemon import read_config
from terwayd.doctor import firewall, modules
from terwayd.doctor.facts import Clock, Facts, Lacking, Process, Runtime, Shim, Told
from terwayd.errors import TerwayError
from terwayd.host import find_managers
from terwayd.host.asking import output, read
from terwayd.host.managers import Found
from terwayd.host.uplink import find_uplink, uplink_alias
from terwayd.kernel import iptables, netns
from terwayd.kernel.netlink import Netlink
from terwayd.kernel.nftables import Nftables
from terwayd.kernel.sysctl import read_sysctl
from terwayd.kernel.tc import TrafficControl
from terwayd.model import Host, Link
from terwayd.pods.sending import FIRST, REST
from terwayd.store import DEFAULT_PATH

_CLIENTS = {"dhclient", "dhcpcd", "udhcpc"}
_NETWORKS = (".conf", ".conflist", ".json")
_BRIDGE = ("stp_state", "forward_delay", "vlan_filtering", "multicast_snooping", "multicast_querier")
_TIME_SERVICES = ("/etc/systemd/ntp-units.d", "/run/systemd/ntp-units.d", "/usr/lib/systemd/ntp-units.d")
_LOOPBACK = ("lo", 1)  # that of a new namespace
_STA_UNSYNC = 0x40  # linux/timex.h
_STATUS_AT, _TIMEX = 40, 208  # where struct timex has its status, and its size

Status = Mapping[str, Any]


def gather(status: Status | None, path: str) -> Facts:
    """The facts; `status` is the daemon's, None where none answers.  ConfigError where `path` is wrong."""
    config = read_config(path)
    with Netlink() as netlink:
        host = netlink.observe()
    uplink, refused = _uplink(host, config, status)
    names = [config.host.bridge, *([uplink.name] if uplink is not None else [])]
    found = find_managers.find(uplink) if uplink is not None else Found()
    filtered, dropping, unread = _firewall(config.host.bridge)
    managing = (
        ("NetworkManager" if found.nm_configures else "systemd-networkd",) if found.userspace_ra else ()
    )
    return Facts(
        config=config,
        host=host,
        uplink=uplink,
        refused=refused,
        told=None if status is None else tuple(map(_told, status["findings"])),
        pods=_pods(status),
        lacking=_lacking(),
        filtered=filtered,
        dropping=dropping,
        unread=unread,
        sysfs=dict(_sysfs(config.host.bridge, names[-1])),
        dhcp_clients=tuple(_dhcp_clients(names)),
        managing=managing,
        cni_dhcp=tuple(
            _process(pid, "dhcp") for pid, words in find_managers.processes() if _is_cni_dhcp(words)
        ),
        networks=_networks(config.cni.conf_dir),
        shims=tuple(_shim(directory) for directory in config.cni.bin_dirs),
        runtimes=tuple(_runtimes()),
        clock=_clock(config.cni),
    )


def _uplink(host: Host, config: Config, status: Status | None) -> tuple[Link | None, tuple[str, str] | None]:
    marked = uplink_alias(config.host.bridge)
    if (ours := next((link for link in host.links if link.alias == marked), None)) is not None:
        return ours, None
    try:
        if status is None:
            return host.link(offline.plan_setup(config.path)["uplink"]), None
        return find_uplink(host, config.host.uplink, config.host.bridge, leased=True), None
    except TerwayError as error:
        return host.link(config.host.uplink), (error.message, error.hint)


def _told(finding: Mapping[str, str]) -> Told:
    return Told(finding["code"], finding["severity"] == "error", finding["message"], finding["hint"])


def _pods(status: Status | None) -> dict[str, str] | None:
    if status is not None:
        return {pod["host_ifname"]: f"{pod['namespace']}/{pod['name']}".strip("/") for pod in status["pods"]}
    return offline.attached() if DEFAULT_PATH.exists() else {}


def _lacking() -> tuple[Lacking, ...]:
    """The modules without which a namespace made for it cannot have something."""

    def attempt() -> list[str]:
        with Netlink() as netlink, TrafficControl() as control:
            makes: dict[str, Callable[[], object]] = {
                "bridge": lambda: netlink.add_bridge("twtry", "02:00:00:00:00:01", 1500),
                "veth": lambda: netlink.add_pair("twtry0", "twtry1", mtu=1500),
                "af_packet": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close(),
                "nf_tables": _nf_tables,
                "sch_ingress": lambda: control.hook(*_LOOPBACK),
                "cls_bpf": lambda: _filter(control),
            }
            return [module for module, make in makes.items() if not _works(make)]

    return tuple(map(modules.why, netns.in_a_new_one(attempt)))


def _nf_tables() -> None:
    with closing(Nftables()) as nftables:
        nftables.generation()


def _filter(control: TrafficControl) -> None:
    if _works(lambda: control.hook(*_LOOPBACK)):
        control.put(*_LOOPBACK, {FIRST: REST})


def _works(make: Callable[[], object]) -> bool:
    try:
        make()
    except (TerwayError, OSError):
        return False
    return True


def _firewall(bridge: str) -> tuple[tuple[str, ...] | None, tuple[firewall.Dropping, ...], str]:
    """Which iptables bridged frames pass, None for no br_netfilter; what drops them there; what could not be listed."""
    settings = {each: read_sysctl(f"net/bridge/bridge-nf-call-{each}") for each in firewall.FAMILIES}
    if set(settings.values()) == {None}:
        return None, (), ""
    filtered = tuple(each for each, text in settings.items() if text not in {None, "0"})
    if not filtered:
        return filtered, (), ""
    chains: list[firewall.Json] = []
    unread = ""
    try:
        chains += firewall.of_nft(output("nft", "-j", "list", "ruleset"))
    except ValueError:
        unread = "nft"
    for tool in iptables.legacy_in_use():
        rules = output(tool, "-w", "5", "-S")
        chains += firewall.of_legacy(tool, rules)
        unread = unread or ("" if rules else tool)
    return filtered, firewall.dropping(chains, bridge, filtered), unread


def _sysfs(bridge: str, uplink: str) -> Iterator[tuple[str, str]]:
    for name in [f"{bridge}/bridge/{key}" for key in _BRIDGE] + [f"{uplink}/brport/state"]:
        if text := read(f"/sys/class/net/{name}").strip():
            yield name, text


def _dhcp_clients(devs: list[str]) -> Iterator[Process]:
    for pid, words in find_managers.processes():
        name = words[0].rstrip(":").rpartition("/")[2]
        if name == "busybox" and words[1:2] == ["udhcpc"]:
            name = "udhcpc"
        if name in _CLIENTS and "-6" not in words and any(dev in words for dev in devs):
            yield _process(pid, name)


def _is_cni_dhcp(words: list[str]) -> bool:
    return words[0].rpartition("/")[2] == "dhcp" and words[1:2] == ["daemon"]


def _process(pid: int, name: str) -> Process:
    unit = read(f"/proc/{pid}/cgroup").strip().rpartition("/")[2]
    if not unit.endswith(".service"):
        return Process(pid, name)
    main = output("systemctl", "show", "--property=MainPID", "--value", unit).strip()
    return Process(pid, name, unit, main == str(pid))


def _networks(directory: str) -> tuple[str, ...] | None:
    try:
        names = sorted(each.name for each in Path(directory).iterdir())
    except FileNotFoundError:
        return ()
    except OSError:
        return None
    return tuple(name for name in names if name.endswith(_NETWORKS) and not name.startswith("."))


def _shim(directory: str) -> Shim:
    target = Path(directory, PLUGIN)
    if not target.is_file():
        return Shim(directory, "is missing")
    if not os.access(target, os.X_OK):
        return Shim(directory, "cannot be executed")
    text = SHIM.read_text(encoding="utf-8") if SHIM.is_file() else ""
    if text and target.read_bytes() not in (text.encode(), prepared(text)):
        return Shim(directory, "is of another version")
    return Shim(directory)


def _runtimes() -> Iterator[Runtime]:
    file = "/etc/containerd/config.toml"
    plugins = _toml(file).get("plugins", {})
    for name in ("io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri"):
        if cni := plugins.get(name, {}).get("cni", {}):
            directories = cni.get("bin_dirs") or [cni.get("bin_dir", "")]
            yield Runtime("containerd", file, tuple(filter(None, directories)), cni.get("conf_dir", ""))
            break
    file = "/etc/crio/crio.conf"
    if network := _toml(file).get("crio", {}).get("network", {}):
        directories = network.get("plugin_dirs", [])
        yield Runtime("CRI-O", file, tuple(directories), network.get("network_dir", ""))


def _toml(path: str) -> dict[str, Any]:
    try:
        return tomllib.loads(read(path))
    except tomllib.TOMLDecodeError:
        return {}


def _clock(cni: CniConfig) -> Clock:
    witnesses = [Path("/var/lib/terwayd/state.db"), Path(cni.conf_dir, CONFLIST), SHIM]
    times = [(each.stat().st_mtime, str(each)) for each in witnesses if each.exists()]
    seen, witness = max(times, default=(0.0, ""))
    timex = ctypes.create_string_buffer(_TIMEX)
    known = ctypes.CDLL(None).adjtimex(timex) >= 0
    status = int.from_bytes(timex.raw[_STATUS_AT : _STATUS_AT + 4], "little")
    synchronised = not status & _STA_UNSYNC if known else None
    return Clock(time.time(), synchronised, seen, witness, "on" if synchronised else _time_service())


def _time_service() -> str:
    """Whether any of the services that systemd knows to set the clock is there, and on: see facts.Clock."""
    if not Path("/run/systemd/system").is_dir():
        return ""
    files = [file for each in _TIME_SERVICES for file in Path(each).glob("*.list")]
    lines = [line for file in files for line in read(str(file)).splitlines()]
    units = [line for line in lines if line and not line.startswith("#")]
    if not units:
        return "none"
    return "on" if "active" in output("systemctl", "is-active", *units).split() else "off"
