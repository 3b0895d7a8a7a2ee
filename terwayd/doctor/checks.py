"""What the doctor checks on the host itself, and the table of all checks.

A check is a code, a group and a function from facts to a verdict.  It says what was found also where
all is well; otherwise its hint is the command that mends it.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from terwayd.config import CniConfig
from terwayd.doctor.facts import Facts, Lacking, Process
from terwayd.host.managers import NETWORKD_FILE

GROUPS: Final = ("host", "kernel", "bridge", "cni", "dhcp", "lan")
LIVE: Final = ("dhcp", "lan")
CONFLIST: Final = "10-terway.conflist"
PLUGIN: Final = "/usr/lib/cni/cni-terway"
_SETTLED: Final = 86400.0  # seconds that a clock may lag behind what was written down before
_SET_NTP: Final = "timedatectl set-ntp true"
_SYNCHRONISE: Final = {  # by what asks a time server
    "none": "apt install systemd-timesyncd",
    "off": _SET_NTP,
    "on": "name a server that answers: NTP= in /etc/systemd/timesyncd.conf; systemctl restart systemd-timesyncd",
    "": _SET_NTP,
}


class Severity(enum.Enum):
    """How a verdict is to be taken; UNKNOWN: it could not be found out."""

    WELL = "well"
    UNKNOWN = "unknown"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a check found, and what to do about it."""

    severity: Severity
    message: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """One check; `judge` is pure."""

    code: str
    group: str
    judge: Callable[[Facts], Verdict]


def well(message: str) -> Verdict:
    return Verdict(Severity.WELL, message)


def unknown(message: str, hint: str = "") -> Verdict:
    return Verdict(Severity.UNKNOWN, message, hint)


def warning(message: str, hint: str) -> Verdict:
    return Verdict(Severity.WARNING, message, hint)


def error(message: str, hint: str) -> Verdict:
    return Verdict(Severity.ERROR, message, hint)


_NO_BRIDGE: Final = "the NIC is not under the bridge"


def _daemon(facts: Facts) -> Verdict:
    if facts.told is None and facts.bridge is None:
        return unknown("terwayd does not run, and the NIC is as it was", "systemctl enable --now terwayd")
    if facts.told is None:
        return error("terwayd does not answer", "systemctl start terwayd")
    worst = sorted(facts.told, key=lambda told: not told.error)
    if not worst:
        return well("terwayd answers, and finds nothing wrong")
    make = error if worst[0].error else warning
    return make("; ".join(f"{told.code}: {told.message}" for told in worst), worst[0].hint)


def _uplink(facts: Facts) -> Verdict:
    if facts.refused is not None:
        return error(*facts.refused)
    if facts.uplink is None:
        return error("no NIC was found", "host.uplink in /etc/terway.toml")
    if not facts.uplink.up:
        return error(f"{facts.uplink.name} is down", f"ip link set {facts.uplink.name} up")
    if not facts.uplink.carrier:
        return error(f"{facts.uplink.name} has no carrier", "plug its cable in, or connect the virtual NIC")
    return well(f"{facts.uplink.name} is up, with {facts.uplink.mac}")


def _other_manager(facts: Facts) -> Verdict:
    if facts.bridge is None:
        return well(f"{_NO_BRIDGE}: whoever manages it may")
    name = facts.uplink.name if facts.uplink is not None else ""
    if facts.dhcp_clients:
        shown = ", ".join(f"{each.name} (pid {each.pid})" for each in facts.dhcp_clients)
        message = f"a DHCP client other than terwayd runs on {name} or {facts.bridge.name}: {shown}"
        return error(message, _ending(facts.dhcp_clients))
    if facts.managing:
        unmanaged = f"[Match]\\nName={name} {facts.bridge.name} tw*\\n[Link]\\nUnmanaged=yes\\n"
        hints = {
            "NetworkManager": f"nmcli device set {name} managed no",
            "systemd-networkd": f"printf '{unmanaged}' >{NETWORKD_FILE}; networkctl reload",
        }
        return error(f"{facts.managing[0]} configures {name} too", hints.get(facts.managing[0], ""))
    return well(f"nobody else manages {name}")


def _ending(processes: Iterable[Process]) -> str:
    """The command that ends them: by the unit that is there for it, where there is one."""
    units = sorted({each.unit for each in processes if each.main})
    pids = [str(each.pid) for each in processes if each.unit not in units]
    stop = [f"systemctl disable --now {' '.join(units)}"] if units else []
    return "; ".join([*stop, *([f"kill {' '.join(pids)}"] if pids else [])])


def _clock(facts: Facts) -> Verdict:
    clock = facts.clock
    if clock is None:
        return unknown("the clock could not be read")
    if clock.now < clock.seen - _SETTLED:
        days = (clock.seen - clock.now) / 86400
        message = f"the clock is {days:.0f} days behind {clock.witness}"
        return error(message, _SYNCHRONISE[clock.service])
    if clock.synchronised is False:
        told = "" if clock.service != "on" else ": no time server answers"
        return warning(f"the clock is not synchronised with any other{told}", _SYNCHRONISE[clock.service])
    return well(
        "the clock is right" if clock.synchronised else "the clock is not behind what was written down"
    )


def _features(facts: Facts) -> Verdict:
    if facts.lacking:
        shown = "; ".join(f"this kernel lacks {each.module}{_reason(each)}" for each in facts.lacking)
        return error(shown, "; ".join(dict.fromkeys(_having(each) for each in facts.lacking)))
    return well("the kernel makes bridges and veths, and has packet sockets")


def _reason(lacking: Lacking) -> str:
    if lacking.missing:
        return f", which is not in {lacking.missing}"
    return f", which {' and '.join(lacking.forbidden)} forbids" if lacking.forbidden else ""


def _having(lacking: Lacking) -> str:
    """The commands after which the kernel has the module, now and after the next boot."""
    if lacking.missing:  # its package was removed or upgraded under it, or something of it deleted
        again = f"apt install --reinstall linux-image-{lacking.release}"
        return "systemctl reboot" if lacking.elsewhere else again
    load = f"modprobe {lacking.module}"
    if not lacking.forbidden:
        return load
    line = rf"/^[ \t]*(install|blacklist)[ \t]+{lacking.module}\b/d"
    return f"sed -Ei '{line}' {' '.join(lacking.forbidden)}; {load}"


def _netfilter(facts: Facts) -> Verdict:
    if facts.filtered is None:
        return well("br_netfilter is not loaded")
    if not facts.filtered:
        return well("bridged frames pass no iptables")
    through = " and ".join(f"net.bridge.bridge-nf-call-{each}=1" for each in facts.filtered)
    passing = f"bridged frames pass the forward chains ({through})"
    if facts.dropping:
        bridge = facts.config.host.bridge
        return error(
            f"{passing}, and these drop them: {', '.join(map(str, facts.dropping))}",
            "; ".join(chain.exception.format(bridge=bridge) for chain in facts.dropping),
        )
    if facts.unread:
        package = "nftables" if facts.unread == "nft" else "iptables"
        return unknown(f"{passing}, which {facts.unread} cannot list", f"apt install {package}")
    return well("bridged frames pass the forward chains, and none drops them")


def _stp(facts: Facts) -> Verdict:
    if facts.bridge is None or facts.uplink is None:
        return well(f"there is no {facts.config.host.bridge} yet")
    name = facts.bridge.name
    delay = int(facts.sysfs.get(f"{name}/bridge/forward_delay", "0")) / 100
    if facts.sysfs.get(f"{name}/bridge/stp_state", "0") != "0":
        return error(
            f"STP is on for {name}: a new pod waits {2 * delay:.0f} s before a frame of it passes",
            f"ip link set {name} type bridge stp_state 0; ip link set {name} type bridge forward_delay 0",
        )
    state = facts.sysfs.get(f"{facts.uplink.name}/brport/state", "3")
    if state != "3":
        return error(
            f"{facts.uplink.name} does not forward in {name}: state {state}",
            f"ip link set {facts.uplink.name} type bridge_slave state 3",
        )
    return well(f"{name} forwards at once")


def _vlan(facts: Facts) -> Verdict:
    name = facts.config.host.bridge
    if facts.bridge is not None and facts.sysfs.get(f"{name}/bridge/vlan_filtering", "0") != "0":
        return warning(
            f"VLAN filtering is on for {name}: pods hear only VLANs that their ports are in",
            f"ip link set {name} type bridge vlan_filtering 0",
        )
    return well("no VLAN filtering")


def _snooping(facts: Facts) -> Verdict:
    name = facts.config.host.bridge
    snoops = facts.bridge is not None and facts.sysfs.get(f"{name}/bridge/multicast_snooping", "0") != "0"
    if snoops and facts.sysfs.get(f"{name}/bridge/multicast_querier", "0") == "0":
        return warning(
            f"{name} snoops multicast and nobody queries: IPv6 neighbours get lost after some minutes",
            f"ip link set {name} type bridge mcast_snooping 0",
        )
    return well("multicast reaches all")


def _mtu(facts: Facts) -> Verdict:
    if facts.bridge is None or facts.uplink is None:
        return well(f"{_NO_BRIDGE}: no MTU to compare")
    mtu, name = facts.bridge.mtu, facts.bridge.name
    pods = facts.pods or {}
    ports = [link for link in facts.host.links if link.name in pods or link.name == facts.uplink.name]
    wrong = [link for link in ports if link.mtu < mtu or (link.name == facts.uplink.name and link.mtu != mtu)]
    if wrong:
        shown = ", ".join(f"{link.name} {link.mtu}" for link in wrong)
        hint = "; ".join(f"ip link set {link.name} mtu {mtu}" for link in wrong)
        return error(f"{name} has an MTU of {mtu}, and ports of it another one: {shown}", hint)
    if facts.config.pods.mtu > mtu:
        return error(
            f"pods.mtu is {facts.config.pods.mtu}, and {name} carries {mtu}",
            f"[pods] mtu = 0 in {facts.config.path}; systemctl restart terwayd",
        )
    return well(f"{mtu} on {name} and all of its ports")


def _stale(facts: Facts) -> Verdict:
    if facts.pods is None:
        return unknown("nobody knows which pods are attached", "systemctl start terwayd")
    ours = [link for link in facts.host.links if link.kind == "veth" and len(link.name) == 14]
    stale = [link.name for link in ours if link.name.startswith("tw") and link.name not in facts.pods]
    if stale:
        return warning(
            f"interfaces of pods that terwayd does not know: {', '.join(stale)}",
            "; ".join(f"ip link del {name}" for name in stale),
        )
    return well("each interface of a pod has its pod")


def _network(facts: Facts) -> Verdict:
    directory, networks = facts.config.cni.conf_dir, facts.networks
    if facts.bridge is None:
        return well(f"{_NO_BRIDGE}: no network yet")
    if networks is None:
        return unknown(f"{directory} cannot be read", f"ls -l {directory}")
    if CONFLIST not in networks:
        return error(
            f"{directory}/{CONFLIST} is not there: runtimes call the network not ready",
            "terwayctl cni install; terwayctl status",
        )
    before = networks[: networks.index(CONFLIST)]
    if before:
        hint = "; ".join(f"mv {directory}/{name} {directory}/{name}.disabled" for name in before)
        return error(f"runtimes take the first network in {directory}, which is {before[0]}", hint)
    return well(f"{CONFLIST} is the first network in {directory}")


def _plugin(facts: Facts) -> Verdict:
    if facts.bridge is None:
        return well(f"{_NO_BRIDGE}: cni-terway is put in place with it")
    wrong = [shim for shim in facts.shims if shim.trouble]
    if wrong:
        return error(
            "; ".join(f"cni-terway in {shim.directory} {shim.trouble}" for shim in wrong),
            "; ".join(f"install -D -m 755 {PLUGIN} {shim.directory}/cni-terway" for shim in wrong),
        )
    return well(f"cni-terway is in {', '.join(shim.directory for shim in facts.shims)}")


def _runtime(facts: Facts) -> Verdict:
    cni = facts.config.cni
    for runtime in facts.runtimes:
        if runtime.bin_dirs and not _served(runtime.bin_dirs, cni):
            wanted = list(dict.fromkeys([*cni.bin_dirs, runtime.bin_dirs[0]]))
            listed = ", ".join(f'"{each}"' for each in wanted)
            return error(
                f"{runtime.name} looks for plugins in {', '.join(runtime.bin_dirs)} ({runtime.file}), "
                "where cni-terway is not put",
                f"[cni] bin_dirs = [{listed}] in {facts.config.path}; systemctl restart terwayd",
            )
        if runtime.conf_dir and runtime.conf_dir.rstrip("/") != cni.conf_dir.rstrip("/"):
            return error(
                f"{runtime.name} looks for networks in {runtime.conf_dir} ({runtime.file}), not in {cni.conf_dir}",
                f'[cni] conf_dir = "{runtime.conf_dir}" in {facts.config.path}; systemctl restart terwayd',
            )
    if not facts.runtimes:
        return well("no configuration of a runtime says otherwise")
    return well(f"where {' and '.join(each.name for each in facts.runtimes)} looks, terwayd puts it")


def _served(directories: tuple[str, ...], cni: CniConfig) -> bool:
    ours = {*(each.rstrip("/") for each in cni.bin_dirs), "/usr/lib/cni"}  # the package's own place
    return any(each.rstrip("/") in ours for each in directories)


def _chain(facts: Facts) -> Verdict:
    chained = [item for item in facts.config.cni.chain if not isinstance(item, str)]
    if any(item.get("type") == "tuning" and item.get("mac") for item in chained):
        return warning(
            "tuning in cni.chain gives pods another MAC address than the one they have their lease for"
            + (": none of their frames passes" if facts.config.pods.antispoof else ""),
            "ask for the address where the pod does: the annotation terway.io/mac, or --mac-address",
        )
    return well("nothing in cni.chain changes who a pod is on the LAN")


def _cni_dhcp(facts: Facts) -> Verdict:
    if facts.cni_dhcp:
        shown = ", ".join(f"pid {each.pid}" for each in facts.cni_dhcp)
        hint = _ending(facts.cni_dhcp).replace("cni-dhcp.service", "cni-dhcp.service cni-dhcp.socket")
        return warning(f"the DHCP daemon of the CNI plugins runs beside terwayd: {shown}", hint)
    return well("no other DHCP daemon for pods")


HOST_CHECKS: Final = (
    Check("daemon", "host", _daemon),
    Check("uplink", "host", _uplink),
    Check("other-manager", "host", _other_manager),
    Check("clock", "host", _clock),
    Check("features", "kernel", _features),
    Check("br-netfilter", "kernel", _netfilter),
    Check("stp", "bridge", _stp),
    Check("vlan-filtering", "bridge", _vlan),
    Check("snooping", "bridge", _snooping),
    Check("mtu", "bridge", _mtu),
    Check("stale-veth", "bridge", _stale),
    Check("network", "cni", _network),
    Check("plugin", "cni", _plugin),
    Check("runtime", "cni", _runtime),
    Check("chain", "cni", _chain),
    Check("cni-dhcp", "cni", _cni_dhcp),
)
