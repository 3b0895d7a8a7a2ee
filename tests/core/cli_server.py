"""A Varlink server on a Unix socket that gives the answers a test wrote down.

Real sockets and the real wire, so that what is tested is what runs: the shim and terwayctl as they
are.  It records what it was asked, descriptors included.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
Call = dict[str, Any]


class Server:
    """Answers each call by `answer(call)`: bytes go out as they are, None closes the connection."""

    def __init__(self, path: Path, answer: Callable[[Call], bytes | None]) -> None:
        self.path = path
        self.answer = answer
        self.calls: list[Call] = []
        self.inodes: list[int] = []  # of the descriptors that came along
        self._listener = socket.socket(socket.AF_UNIX)
        path.unlink(missing_ok=True)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        data = b""
        while not data.endswith(b"\0"):
            piece, descriptors, _, _ = socket.recv_fds(connection, 1 << 16, 8)
            for descriptor in descriptors:
                self.inodes.append(os.fstat(descriptor).st_ino)
                os.close(descriptor)
            if not piece:
                return
            data += piece
        self.calls.append(json.loads(data[:-1]))
        if (reply := self.answer(self.calls[-1])) is not None:
            connection.sendall(reply)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)


@contextlib.contextmanager
def serving(path: Path, answer: Callable[[Call], bytes | None]) -> Iterator[Server]:
    """A server at `path` for the length of the block."""
    server = Server(path, answer)
    try:
        yield server
    finally:
        server.close()


def reply(parameters: dict[str, Any], error: str = "") -> bytes:
    """One Varlink reply as the daemon writes it."""
    message = {"error": error, "parameters": parameters} if error else {"parameters": parameters}
    return json.dumps(message, separators=(",", ":")).encode() + b"\0"


def failed(message: str, hint: str, kind: str) -> bytes:
    """The reply to a method that failed."""
    return reply({"message": message, "hint": hint, "kind": kind}, "io.terway.Failed")


def canned(**replies: dict[str, Any] | bytes) -> Callable[[Call], bytes]:
    """Answers by method name."""

    def answer(call: Call) -> bytes:
        wanted = replies.get(call["method"].removeprefix("io.terway."))
        if wanted is None:
            return reply({"method": call["method"]}, "org.varlink.service.MethodNotFound")
        return wanted if isinstance(wanted, bytes) else reply(wanted)

    return answer


def pod(name: str = "web-7c9f-x2k", **changes: Any) -> dict[str, Any]:
    """A pod as Status reports it, with `changes`."""
    return {
        "namespace": "default",
        "name": name,
        "network": "terway",
        "container_id": "c0ffee" * 10 + "c0de",
        "ifname": "eth0",
        "host_ifname": "tw3f9a1c00aa11",
        "mac": "02:42:c0:a8:01:7b",
        "address": "192.168.1.123/24",
        "gateway": "192.168.1.1",
        "server": "192.168.1.1",
        "state": "bound",
        "renews_in": 18125,
        "expires_in": 39905,
        "dropped": 0,
        **changes,
    }


def status(*pods: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Status of a healthy host with these pods."""
    return {
        "version": "1.0.0",
        "state": "ready",
        "reason": "",
        "since": time.time() - 3 * 86400 - 4 * 3600 - 60,
        "host": {
            "bridge": "mybr0",
            "uplink": "eth0",
            "mac": "52:54:00:ab:cd:ef",
            "mtu": 1500,
            "addresses": ["192.168.1.10/24"],
            "gateways": ["192.168.1.1"],
        },
        "pods": list(pods),
        "findings": [],
        "config": "/etc/terway.toml",
        **changes,
    }


def lease(name: str = "web", **changes: Any) -> dict[str, Any]:
    """A lease as Leases reports it, with `changes`."""
    return {
        **{key: value for key, value in pod(name).items() if key != "dropped"},
        "client_id": "00ff",
        "hostname": "web",
        "dns": ["192.168.1.1", "9.9.9.9"],
        "domain": None,
        "search": ["a.example", "b.example"],
        "routes": ["10.0.0.0/8 via 192.168.1.2"],
        "ntp": [],
        "mtu": None,
        "options": {"66": b"tftp.example".hex(), "150": "c0000201", "43": ""},
        "acquired": time.time() - 3700,
        **changes,
    }


def on_terminal(words: list[str], columns: int, **environment: str) -> str:
    """What terwayctl writes to a terminal that wide."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environ = {"PATH": os.environ["PATH"], "TERM": "xterm", "LANG": "C.UTF-8", **environment}
    subprocess.run([sys.executable, "-m", "cli", *words], cwd=ROOT, stdout=slave, stderr=slave, env=environ)
    os.close(slave)
    written = b""
    try:
        while piece := os.read(master, 65536):
            written += piece
    except OSError:  # EIO: the other end is closed and all is read
        pass
    os.close(master)
    return written.decode()
