"""Takes what comes to UDP port 9, until it is ended."""

from __future__ import annotations

import socket


def main() -> None:
    receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiver.bind(("", 9))
    print("ready", flush=True)
    data = bytearray(2048)
    while True:
        receiver.recv_into(data)


if __name__ == "__main__":
    main()
