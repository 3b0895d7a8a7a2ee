"""A blocking Varlink client: one call, one connection, one dict back.

Knows the wire (JSON and a NUL byte over a Unix socket, https://varlink.org/Interface-Definition)
and turns every failure into an error with a hint.  Knows no method's meaning.
"""

from __future__ import annotations

import json
import socket
from typing import Any, Final

from .errors import DaemonUnavailable, NotPermittedError, NotRunningError, RemoteError

SOCKET: Final = "/run/terwayd.sock"
START: Final = "systemctl start terwayd"
LOGS: Final = "journalctl -u terwayd"


class Client:
    """Calls methods of io.terway; `timeout` in seconds bounds each wait for the daemon."""

    def __init__(self, path: str = SOCKET) -> None:
        self.path = path

    def call(self, method: str, *, timeout: float = 10.0, **parameters: Any) -> dict[str, Any]:
        """The reply's parameters of `io.terway.<method>`.

        Raises DaemonUnavailable, NotPermittedError, or RemoteError with the daemon's own message.
        """
        request = json.dumps({"method": f"io.terway.{method}", "parameters": parameters}).encode() + b"\0"
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout)
            self._connect(connection)
            try:
                connection.sendall(request)
                data = _receive(connection)
            except TimeoutError:
                raise DaemonUnavailable(
                    f"terwayd did not answer {method} within {timeout:.0f} s", hint=LOGS
                ) from None
            except OSError as error:
                raise DaemonUnavailable(
                    f"lost the connection to terwayd: {error.strerror}", hint=LOGS
                ) from None
        if not data.endswith(b"\0"):
            raise DaemonUnavailable(f"terwayd closed the connection before it answered {method}", hint=LOGS)
        return _unwrap(method, data[:-1])

    def _connect(self, connection: socket.socket) -> None:
        try:
            connection.connect(self.path)
        except PermissionError:
            raise NotPermittedError(f"no permission to use {self.path}") from None
        except FileNotFoundError:
            raise NotRunningError(f"terwayd is not running: {self.path} does not exist", hint=START) from None
        except ConnectionRefusedError:
            raise NotRunningError(
                f"terwayd is not running: nobody listens on {self.path}", hint=START
            ) from None
        except OSError as error:
            reason = error.strerror or str(error)
            raise DaemonUnavailable(f"terwayd does not answer on {self.path}: {reason}", hint=START) from None


def _receive(connection: socket.socket) -> bytes:
    data = bytearray()
    while not data.endswith(b"\0") and (chunk := connection.recv(1 << 18)):
        data += chunk
    return bytes(data)


def _unwrap(method: str, data: bytes) -> dict[str, Any]:
    try:
        reply = json.loads(data)
        parameters: dict[str, Any] = reply.get("parameters") or {}
        error = reply.get("error")
    except (ValueError, AttributeError):
        raise RemoteError(f"terwayd's answer to {method} is not Varlink", hint=LOGS) from None
    if not error:
        return parameters
    if error == "io.terway.Failed":
        raise RemoteError(
            str(parameters.get("message", "")) or f"{method} failed",
            hint=str(parameters.get("hint") or LOGS),
            kind=str(parameters.get("kind", "")),
        )
    if error in ("org.varlink.service.MethodNotFound", "org.varlink.service.MethodNotImplemented"):
        raise RemoteError(f"the running terwayd does not know {method}", hint="systemctl restart terwayd")
    raise RemoteError(f"{method} failed: {error} {json.dumps(parameters)}", hint=LOGS)
