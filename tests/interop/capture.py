"""What went over the wire: tcpdump in a machine of the lab, and a reader of DHCP and ARP of its own."""

from __future__ import annotations

import os
import signal
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address

from tests.lab import Machine
from tests.lab.errors import eventually
from tests.lab.machine import PYTHON

KINDS = ("", "DISCOVER", "OFFER", "REQUEST", "DECLINE", "ACK", "NAK", "RELEASE", "INFORM")


@dataclass(frozen=True, slots=True)
class Seen:
    """A DHCP message on the wire.  `to_all`: its Ethernet destination was the broadcast address."""

    at: float
    kind: str
    mac: str
    to_all: bool
    source: IPv4Address
    destination: IPv4Address
    ciaddr: IPv4Address
    yiaddr: IPv4Address
    flags: int
    xid: int
    options: dict[int, bytes]


@dataclass(frozen=True, slots=True)
class Arp:
    at: float
    operation: int
    mac: str
    sender: IPv4Address
    target: IPv4Address


class Capture:
    """Records DHCP and ARP on an interface of a machine for the time of a `with` block."""

    count = 0

    def __init__(self, machine: Machine, interface: str = "eth0") -> None:
        Capture.count += 1
        self.machine, self.interface = machine, interface
        self.file = f"/run/capture-{Capture.count}.pcap"
        command = [
            "tcpdump",
            "-i",
            interface,
            "-U",
            "--immediate-mode",
            "-s0",
            "-n",
            "-p",
            "-Z",
            "root",
            "-w",
            self.file,
        ]
        self.process = machine.spawn([*command, "arp or udp port 67 or udp port 68"], f"{self.file}.log")
        eventually(lambda: "listening on" in machine.read(f"{self.file}.log"), 5.0, "tcpdump listens")

    def __enter__(self) -> Capture:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.signal(signal.SIGINT)
        self.process.wait()

    def frames(self) -> list[tuple[float, bytes]]:
        """All frames up to now: one that is sent now, and is neither DHCP nor ARP, is the last to wait for."""
        mark = os.urandom(8)
        frame = b"\2" * 12 + b"\x08\x06" + mark
        send = f"import socket as s; r = s.socket(s.AF_PACKET, s.SOCK_RAW); r.bind(('{self.interface}', 0))"
        self.machine.run([PYTHON, "-IS", "-c", f"{send}; r.send({frame!r})"])
        file = self.machine.path(self.file)
        raw = eventually(lambda: found if mark in (found := file.read_bytes()) else b"", 5.0, "the mark")
        found, at = [], 24
        while at + 16 <= len(raw):
            seconds, micros, size, _ = struct.unpack_from("<IIII", raw, at)
            if at + 16 + size > len(raw):
                break
            found.append((seconds + micros / 1e6, raw[at + 16 : at + 16 + size]))
            at += 16 + size
        return found

    def dhcp(self, kind: str = "", mac: str = "") -> list[Seen]:
        """The DHCP messages so far, of one kind or one client if given."""
        read = [seen for when, frame in self.frames() if (seen := _dhcp(when, frame)) is not None]
        return [seen for seen in read if kind in ("", seen.kind) and mac in ("", seen.mac)]

    def arp(self, mac: str = "") -> list[Arp]:
        read = [
            Arp(
                when,
                frame[21],
                frame[22:28].hex(":"),
                IPv4Address(frame[28:32]),
                IPv4Address(frame[38:42]),
            )
            for when, frame in self.frames()
            if frame[12:14] == b"\x08\x06" and len(frame) >= 42
        ]
        return [one for one in read if mac in ("", one.mac)]


def _dhcp(at: float, frame: bytes) -> Seen | None:
    if frame[12:14] != b"\x08\x00" or frame[23] != 17:
        return None
    header = (frame[14] & 15) * 4
    boot = frame[14 + header + 8 :]
    if len(boot) < 241:
        return None
    options: dict[int, bytes] = {}
    where = 240
    while where + 1 < len(boot) and boot[where] != 255:
        if boot[where] == 0:
            where += 1
            continue
        options[boot[where]] = boot[where + 2 : where + 2 + boot[where + 1]]
        where += 2 + boot[where + 1]
    return Seen(
        at=at,
        kind=KINDS[options.get(53, b"\0")[0]],
        mac=boot[28:34].hex(":"),
        to_all=frame[:6] == b"\xff" * 6,
        source=IPv4Address(frame[26:30]),
        destination=IPv4Address(frame[30:34]),
        ciaddr=IPv4Address(boot[12:16]),
        yiaddr=IPv4Address(boot[16:20]),
        flags=int.from_bytes(boot[10:12], "big"),
        xid=int.from_bytes(boot[4:8], "big"),
        options=options,
    )
