"""GET /metrics over TCP, where [metrics] listen asks for it: nothing else, and not for many at once.

Who connects can read numbers and do nothing.  A client that is slow, or one too many, loses its
connection; the rest of the daemon does not notice.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable
from typing import Final

log = logging.getLogger(__name__)

_CLIENTS: Final = 16
_PATIENCE: Final = 5.0  # seconds for a request to come, and for its answer to go
_HEAD: Final = 8192  # bytes
_FREEBIND: Final = 15  # IP_FREEBIND, from linux/in.h: the address may come later, with the bridge


class Exporter:
    """Serves the page that `page` makes on ADDRESS:PORT; a port that is taken is told, and no more."""

    def __init__(self, listen: str, page: Callable[[], str]) -> None:
        self._listen = listen
        self._page = page
        self._server: asyncio.Server | None = None
        self._clients = 0

    async def start(self) -> None:
        """Listen, if anybody wants it."""
        if not self._listen:
            return
        try:
            listener = _listener(self._listen)
            self._server = await asyncio.start_server(self._client, sock=listener, limit=_HEAD)
        except OSError as error:
            log.error("no metrics on %s: %s", self._listen, error.strerror or error)

    def close(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients += 1
        try:
            if self._clients <= _CLIENTS:
                async with asyncio.timeout(_PATIENCE):
                    writer.write(self._answer(await reader.readuntil(b"\r\n\r\n")))
                    await writer.drain()
                    writer.write_eof()
                    await reader.read()  # until the client has all of it: closing on what it sent would reset
        except (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError):
            pass
        finally:
            self._clients -= 1
            writer.transport.abort()

    def _answer(self, head: bytes) -> bytes:
        method, _, rest = head.partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0]
        if path != b"/metrics":
            return _response("404 Not Found", "it is /metrics\n")
        if method not in (b"GET", b"HEAD"):
            return _response("405 Method Not Allowed", "GET\n", "Allow: GET, HEAD\r\n")
        return _response("200 OK", self._page(), body=method == b"GET")


def _response(status: str, text: str, extra: str = "", *, body: bool = True) -> bytes:
    data = text.encode()
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"
        f"Content-Length: {len(data)}\r\n{extra}Connection: close\r\n\r\n"
    )
    return head.encode() + (data if body else b"")


def _listener(listen: str) -> socket.socket:
    address, _, port = listen.rpartition(":")
    address = address.strip("[]")
    listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.IPPROTO_IP, _FREEBIND, 1)
        if address == "::":
            with contextlib.suppress(OSError):
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind((address, int(port)))
        listener.listen(_CLIENTS)
    except BaseException:
        listener.close()
        raise
    return listener
