"""A steady ping, run inside a machine: `python3 -IS pinger.py ADDRESS SECONDS`.

One echo request every SECONDS until standard input closes, then a short wait for late replies and one line
of JSON: sent, lost sequence numbers, the slowest reply.  A request that cannot be sent counts as lost.
"""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import sys
import time

SO_RCVBUFFORCE = 33  # linux/socket.h
GRACE = 0.5  # seconds that the last replies have


def checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def main() -> None:
    target, interval = sys.argv[1], float(sys.argv[2])
    six = ":" in target
    if six:
        sock = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
    else:
        sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)  # it may wait for the processor
    request, reply = (128, 129) if six else (8, 0)
    ident = os.getpid() & 0xFFFF ^ 0x5457
    sent: list[float] = []
    replies: dict[int, float] = {}
    duplicates = 0
    errors: dict[str, int] = {}
    begin = time.monotonic()
    stop = 0.0
    print("started", flush=True)
    while not stop or (time.monotonic() < stop and len(replies) < len(sent)):
        now = time.monotonic()
        if not stop and now >= begin + len(sent) * interval:
            number = len(sent)
            packet = struct.pack("!BBHHHI", request, 0, 0, ident, number & 0xFFFF, number)
            packet = (
                packet[:2] + struct.pack("!H", checksum(packet)) + packet[4:]
            )  # the kernel redoes it for IPv6
            sent.append(now)
            try:
                sock.sendto(packet, (target, 0))
            except OSError as error:
                errors[str(error)] = errors.get(str(error), 0) + 1
        due = stop if stop else begin + len(sent) * interval
        readable, _, _ = select.select(
            [sock] if stop else [sock, 0], [], [], max(0.0, due - time.monotonic())
        )
        if 0 in readable and not os.read(0, 4096):
            stop = time.monotonic() + GRACE
        if sock in readable:
            try:
                data = sock.recv(4096)
            except OSError as error:
                errors[str(error)] = errors.get(str(error), 0) + 1
                continue
            icmp = data if six else data[(data[0] & 15) * 4 :]
            if len(icmp) >= 12 and icmp[0] == reply and struct.unpack("!H", icmp[4:6])[0] == ident:
                number = struct.unpack("!I", icmp[8:12])[0]
                duplicates += number in replies
                replies.setdefault(number, time.monotonic())
    slowest = max((replies[number] - sent[number] for number in replies), default=0.0)
    lost = [number for number in range(len(sent)) if number not in replies]
    result = {"sent": len(sent), "lost": lost, "duplicates": duplicates, "slowest": slowest, "errors": errors}
    print(json.dumps(result), flush=True)


main()
