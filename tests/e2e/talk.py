"""Who answers under an address, over TCP and UDP: `talk.py serve PORT`, or `talk.py ask PORT ADDRESS...`.

The server says its name (argument 3) and whom it saw asking; `ask` prints that as JSON, by protocol and
address, null where nobody answered.
"""

from __future__ import annotations

import json
import selectors
import socket
import sys
from concurrent.futures import ThreadPoolExecutor

PATIENCE = 2.0  # seconds; what does not come by then does not come in the lab


def serve(port: int, name: str) -> None:
    tcp = socket.create_server(("", port), backlog=64)
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(("", port))
    selector = selectors.DefaultSelector()
    selector.register(tcp, selectors.EVENT_READ)
    selector.register(udp, selectors.EVENT_READ)
    print("serving", flush=True)
    while True:
        for ready, _ in selector.select():
            if ready.fileobj is tcp:
                connection, peer = tcp.accept()
                with connection:
                    connection.sendall(f"{name} {peer[0]}".encode())
            else:
                _, peer = udp.recvfrom(64)
                udp.sendto(f"{name} {peer[0]}".encode(), peer)


def asked(kind: int, address: str, port: int) -> str | None:
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.settimeout(PATIENCE)
        try:
            sock.connect((address, port))
            if kind == socket.SOCK_DGRAM:
                sock.send(b"?")
            return sock.recv(64).decode() or None
        except OSError:
            return None


def main() -> None:
    port = int(sys.argv[2])
    if sys.argv[1] == "serve":
        serve(port, sys.argv[3])
        return
    kinds = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
    with ThreadPoolExecutor() as pool:
        asking = {
            f"{name} {address}": pool.submit(asked, kind, address, port)
            for address in sys.argv[3:]
            for name, kind in kinds.items()
        }
        print(json.dumps({question: answer.result() for question, answer in asking.items()}))


main()
