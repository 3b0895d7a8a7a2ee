"""What else on the host depends on the NIC: what names it, and whether the root filesystem comes over it.

Pure: from what the kernel and the host's tools print (find_dependants asks them) to words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address

from terwayd.errors import HostError, Refused
from terwayd.model import TABLE_MAIN, Host, IPAddress, Link

_NETWORK_FILESYSTEMS = {"nfs", "nfs4", "cifs", "smb3", "ceph", "glusterfs", "fuse.glusterfs", "9p", "afs"}
_NETWORK_ROOTS = ("root=/dev/nfs", "root=nbd:", "root=nfs", "root=iscsi:", "nfsroot=", "nbdroot=", "netroot=")
_ALL_HOSTS = "224.0.0.1"
_CLIENTS = (":68", ":546")  # the ports of DHCP clients: the NIC's manager is told to end them
_SHOWN = 5  # rules that are named; the others are counted


@dataclass(frozen=True, slots=True)
class Root:
    """A root filesystem that comes over the network; `server` is None where it is not told."""

    what: str
    server: IPAddress | None = None


def ready(host: Host, nic: Link, *, addressed: bool) -> None:
    """Raise HostError while there is no use in taking `nic` over: what is missing may come yet."""
    if nic.up and not nic.carrier:
        raise HostError(
            f"host.uplink: {nic.name} has no carrier",
            hint="plug its cable in; terwayd waits for it",
        )
    if addressed and all(address.link_local for address in host.addresses_of(nic.name)):
        raise HostError(
            f"host.uplink: {nic.name} has no address that could move",
            hint=f'give {nic.name} one, or have terwayd do it: host.address = "dhcp" or ["192.0.2.10/24"];'
            " host.address = [] for a bridge without one",
        )


def root(mounts: str, cmdline: str, device: str) -> Root | None:
    """Where the root filesystem comes from, of /proc/mounts, /proc/cmdline, and the path of its device in /sys."""
    lines = [line.split() for line in mounts.splitlines()]
    source, _, kind, options = next(
        (line[:4] for line in reversed(lines) if line[1:2] == ["/"]), ["", "", "", ""]
    )
    if kind in _NETWORK_FILESYSTEMS:
        told = re.search(r"(?:^|,)addr=([0-9a-fA-F.:]+)", options)
        return Root(f"{source} ({kind})", _address(told[1] if told else source.rpartition(":")[0]))
    if source.startswith("/dev/nbd"):
        return Root(f"{source} (nbd)")
    if re.search(r"/session\d+/", device):
        return Root(f"{source} (iSCSI)")
    words = cmdline.split()
    if kind == "overlay" and (word := next((w for w in words if w.startswith(_NETWORK_ROOTS)), "")):
        return Root(word)
    return None


def refuse_root(found: Root | None, host: Host, nic: Link) -> None:
    """Raise Refused where the root filesystem comes over `nic`."""
    if found is None or (found.server is not None and _way_to(host, found.server) not in {nic.name, ""}):
        return
    raise Refused(
        f"host.uplink: the root filesystem, {found.what}, comes over {nic.name}: were that cut off for a moment,"
        " nothing could bring it back",
        hint="name another NIC: host.uplink in /etc/terway.toml",
    )


def warnings(nic: str, ruleset: str, iptables: str, sockets: str, igmp: str, *, lro: bool) -> Iterator[str]:
    """What names `nic` and stays behind, in words.

    Of `nft list ruleset`, `iptables-legacy-save`, `ss -Hnltuwp` and /proc/net/igmp.
    """
    named = [*_rules(nic, ruleset), *_rules(nic, iptables)]
    for place, rule in named[:_SHOWN]:
        yield f"{place} names {nic}, and sees what comes in by the bridge no more: {rule}"
    if len(named) > _SHOWN:
        yield f"{len(named) - _SHOWN} more rules of the firewall name {nic}"
    for line in sockets.splitlines():
        words = line.split()
        if len(words) > 4 and f"%{nic}:" in words[4] and not words[4].endswith(_CLIENTS):
            who = re.search(r'"([^"]+)",pid=(\d+)', line)
            name = f"{who[1]} (PID {who[2]})" if who else "a program"
            yield f"{name} listens on {words[4]} alone, and hears nothing there any more"
    for group in _groups(nic, igmp):
        yield f"a program has joined the multicast group {group} on {nic}, and hears nothing there any more"
    if lro:
        yield f"the bridge turns off large receive offload; after a teardown: ethtool -K {nic} lro on"


def _rules(nic: str, text: str) -> Iterator[tuple[str, str]]:
    """The rules of nft's or iptables-save's text that name the NIC, and where they stand."""
    named = re.compile(rf'(?<![\w.:-])"?{re.escape(nic)}"?(?![\w.:-])')
    table = chain = ""
    for line in map(str.strip, text.splitlines()):
        words = line.split()
        if words[:1] == ["table"]:
            table = " ".join(words[1:3])
        elif words[:1] in (["chain"], ["set"], ["map"]):
            chain = words[1]
        elif line.startswith("*"):
            table, chain = f"iptables {line[1:]}", ""
        elif named.search(line) and " hook " not in f" {line}":  # a chain on the device goes on to work
            where = words[1] if words[0] == "-A" else chain
            yield f"the chain {where} of {table}", line


def _groups(nic: str, igmp: str) -> Iterator[str]:
    """The multicast groups that are joined on the NIC beside the one that every host is in."""
    inside = False
    for line in igmp.splitlines()[1:]:
        words = line.split()
        if not line.startswith(("\t\t", " ")) and len(words) > 1:
            inside = words[1] == nic
        elif inside and words:
            group = str(IPv4Address(bytes.fromhex(words[0])[::-1]))
            if group != _ALL_HOSTS:
                yield group


def _way_to(host: Host, address: IPAddress) -> str:
    """The interface by which the host reaches `address`; "" for none."""
    fitting = [
        route
        for route in host.routes
        if route.table == TABLE_MAIN and route.dst.version == address.version and address in route.dst
    ]
    best = max(fitting, key=lambda route: (route.dst.prefixlen, -route.priority), default=None)
    return (best.dev or next((hop.dev for hop in best.hops), "")) if best is not None else ""


def _address(text: str) -> IPAddress | None:
    try:
        return ip_address(text.strip("[]"))
    except ValueError:
        return None
