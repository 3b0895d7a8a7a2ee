"""Run in a pod: sends UDP packets to an address for as many seconds as it is told; prints how many, and how long."""

from __future__ import annotations

import socket
import sys
import time


def main() -> None:
    address, seconds = sys.argv[1], float(sys.argv[2])
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.connect((address, 9))
    data, sent, started = bytes(64), 0, time.perf_counter()
    while time.perf_counter() < started + seconds:
        for _ in range(500):
            sender.send(data)
        sent += 500
    print(sent, time.perf_counter() - started)


if __name__ == "__main__":
    main()
