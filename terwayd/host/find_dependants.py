"""Asking what on the host depends on the NIC: /proc, /sys, and what nft, iptables and ss print."""

from __future__ import annotations

import ctypes
import fcntl
import socket
import struct
import subprocess
from pathlib import Path

from terwayd.host import dependants
from terwayd.host.dependants import Root

_TIMEOUT = 5.0
_SIOCETHTOOL, _ETHTOOL_GFLAGS, _ETH_FLAG_LRO = 0x8946, 0x25, 1 << 15


def root() -> Root | None:
    """The root filesystem, where it comes over the network."""
    mounts = _read("/proc/self/mounts")
    sources = [line.split()[0] for line in mounts.splitlines() if line.split()[1:2] == ["/"]]
    name = sources[-1].rpartition("/")[2] if sources else ""
    device = str(Path("/sys/class/block", name).resolve()) if name else ""
    return dependants.root(mounts, _read("/proc/cmdline"), device)


def warnings(nic: str) -> tuple[str, ...]:
    """What names `nic` and cannot move, in words."""
    old = [
        _output(tool)
        for tool, tables in (
            ("iptables-legacy-save", "/proc/net/ip_tables_names"),
            ("ip6tables-legacy-save", "/proc/net/ip6_tables_names"),
        )
        if _read(tables)
    ]
    found = dependants.warnings(
        nic,
        _output("nft", "list", "ruleset"),
        "".join(old),
        _output("ss", "-Hnltuwp"),
        _read("/proc/net/igmp"),
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


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_TIMEOUT)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode(errors="replace")
