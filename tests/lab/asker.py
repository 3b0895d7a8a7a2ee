"""A DHCP client of few words, run inside a machine: `python3 -IS asker.py INTERFACE MAC [HOSTNAME]`.

DISCOVER and REQUEST from a UDP socket (RFC 2131 with the broadcast flag), then the ACK as one line of JSON.
It shares no code with terwayd, so that it can tell whether the lab's server works.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import sys

DISCOVER, OFFER, REQUEST, ACK = 1, 2, 3, 5
COOKIE = b"\x63\x82\x53\x63"
ATTEMPTS = 4


def message(xid: bytes, mac: bytes, options: list[tuple[int, bytes]]) -> bytes:
    head = struct.pack("!BBBB4sHH16s", 1, 1, 6, 0, xid, 0, 0x8000, b"") + mac.ljust(16, b"\0") + bytes(192)
    return head + COOKIE + b"".join(bytes([code, len(value)]) + value for code, value in options) + b"\xff"


def options_of(reply: bytes) -> dict[int, bytes]:
    found = {}
    at = 240
    while at < len(reply) and reply[at] != 255:
        if reply[at] == 0:
            at += 1
            continue
        size = reply[at + 1]
        found[reply[at]] = reply[at + 2 : at + 2 + size]
        at += 2 + size
    return found


def exchange(
    sock: socket.socket, packets: socket.socket, packet: bytes, kind: int
) -> tuple[bytes, dict[int, bytes]]:
    for _ in range(ATTEMPTS):
        sock.sendto(packet, ("255.255.255.255", 67))
        try:
            while True:
                datagram = packets.recv(2048)
                reply = datagram[(datagram[0] & 15) * 4 + 8 :]
                options = options_of(reply)
                if reply[:1] == b"\2" and reply[4:8] == packet[4:8] and options.get(53) == bytes([kind]):
                    return reply, options
        except TimeoutError:
            continue
    sys.exit("no answer from a DHCP server")


def main() -> None:
    interface, mac = sys.argv[1], bytes.fromhex(sys.argv[2].replace(":", ""))
    name = [(12, sys.argv[3].encode())] if sys.argv[3:] and sys.argv[3] else []
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
    sock.bind(("", 68))
    # Replies through a packet socket, as every client does it: without an address, rp_filter drops them for UDP.
    packets = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
    packets.bind((interface, 0x0800))
    packets.settimeout(0.5)
    xid = os.urandom(4)
    offer, options = exchange(sock, packets, message(xid, mac, [(53, bytes([DISCOVER])), *name]), OFFER)
    address, server = offer[16:20], options[54]
    request = [(53, bytes([REQUEST])), (50, address), (54, server), *name]
    _, options = exchange(sock, packets, message(xid, mac, request), ACK)
    answer = {
        "address": socket.inet_ntoa(address),
        "server": socket.inet_ntoa(server),
        "lease": str(int.from_bytes(options[51], "big")),
        "router": socket.inet_ntoa(options[3][:4]) if 3 in options else "",
        "mask": socket.inet_ntoa(options[1]) if 1 in options else "",
    }
    print(json.dumps(answer))


main()
