"""A time server (RFC 5905, section 7.3) on UDP port 123 that tells this machine's own time.  Runs as a script."""

from __future__ import annotations

import socket
import struct
import time

EPOCH = 2208988800  # seconds from 1900, where NTP begins, to 1970


def stamp(seconds: float) -> bytes:
    return struct.pack("!Q", int((seconds + EPOCH) * 2**32))


def main() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("", 123))
        while True:
            asked, client = server.recvfrom(1024)
            now = time.time()
            # No leap second, version 4, a server of stratum 2, to a microsecond, from another of no distance.
            head = struct.pack("!BBbbIII", 0x24, 2, 6, -20, 0, 1 << 8, 0x7F000001)
            origin = asked[40:48]
            server.sendto(head + stamp(now) + origin + stamp(now) + stamp(time.time()), client)


if __name__ == "__main__":
    main()
