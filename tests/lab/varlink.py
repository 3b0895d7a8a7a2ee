"""A call of the daemon's Varlink API over a Unix socket, written apart from the daemon's own code."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any


class ApiError(Exception):
    """The API answered with an error: its full name, and its parameters."""

    def __init__(self, name: str, parameters: dict[str, Any]) -> None:
        super().__init__(f"{name}: {parameters.get('message', parameters)}")
        self.name = name
        self.parameters = parameters


def call(
    path: Path, method: str, parameters: dict[str, Any] | None = None, timeout: float = 60.0
) -> dict[str, Any]:
    """Call a method by its full name and return the parameters of the reply.  OSError when nobody listens."""
    request = json.dumps({"method": method, "parameters": parameters or {}}).encode() + b"\0"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(timeout)
        sock.connect(str(path))
        sock.sendall(request)
        reply = b""
        while not reply.endswith(b"\0"):
            part = sock.recv(65536)
            if not part:
                raise ConnectionResetError(f"{path} closed without a full reply to {method}")
            reply += part
    answer = json.loads(reply[:-1])
    if "error" in answer:
        raise ApiError(answer["error"], answer.get("parameters", {}))
    result: dict[str, Any] = answer.get("parameters", {})
    return result
