"""Asking what on the host depends on the NIC: /proc, /sys, and what nft, iptables and ss print."""

from __future__ import annotations

import ctypes
import fcntl
import socket
import struct
from pathlib import Path

from terwayd.host import dependants
from terwayd.host.asking import output, read
from terwayd.host.dependants import Root

_SIOCETHTOOL, _ETHTOOL_GFLAGS, _ETH_FLAG_LRO = 0x8946, 0x25, 1 << 15


def root() -> Root | None:
    """The root filesystem, where it comes over the network."""
    mounts = read("/proc/self/mounts")
    sources = [line.split()[0] for line in mounts.splitlines() if line.split()[1:2] == ["/"]]
    name = sources[-1].rpartition("/")[2] if sources else ""
    device = str(Path("/sys/class/block", name).resolve()) if name else ""
    return dependants.root(mounts, read("/proc/cmdline"), device)


def warnings(nic: str) -> tuple[str, ...]:
    """What names `nic` and cannot move, in words."""
    old = [
        output(tool)
        for tool, tables in (
            ("iptables-legacy-save", "/proc/net/ip_tables_names"),
            ("ip6tables-legacy-save", "/proc/net/ip6_tables_names"),
        )
        if read(tables)
    ]
    found = dependants.warnings(
        nic,
        output("nft", "list", "ruleset"),
        "".join(old),
        output("ss", "-Hnltuwp"),
        read("/proc/net/igmp"),
        lro=_lro(nic),
    )
    return tuple(found)


def _lro(nic: str) -> bool:
    """Whether the NIC joins packets as it receives them, which a bridge cannot have."""
    asked = ctypes.create_string_buffer(struct.pack("=II", _ETHTOOL_GFLAGS, 0))
    request = struct.pack("16sP16x", nic.encode(), ctypes.addressof(asked))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            fcntl.ioctl(any_socket, _SIOCETHTOOL, request)
        except OSError:
            return False
    return bool(struct.unpack_from("=II", asked)[1] & _ETH_FLAG_LRO)
