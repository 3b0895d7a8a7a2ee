"""A Varlink server on a Unix socket (varlink.org): JSON objects, each ended by a NUL byte.

Knows connections, messages and descriptors; what a method does is the handler's.  A caller that
goes away ends its call.  One that sends no whole message in time, or takes no answer, is told so and
left.  Only root is served, whatever the mode of the socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, Self

from terwayd.tasks import Tasks

log = logging.getLogger(__name__)

MAX_MESSAGE = 4 * 1024 * 1024  # bytes: a configuration of 1 MiB, escaped
GRACE = 10.0  # seconds for the end of calls that run when the server closes
PATIENCE = 30.0  # seconds for a message to come or to go
_CHUNK = 65536
_MAX_DESCRIPTORS = 4

Handler = Callable[[str, dict[str, Any], list[int]], Awaitable[dict[str, Any]]]
"""Method, parameters and descriptors that came along to the reply's parameters."""


@dataclass
class VarlinkError(Exception):
    """A reply that is an error: its name and its parameters."""

    name: str
    parameters: dict[str, Any]


def invalid(parameter: str) -> VarlinkError:
    return VarlinkError("org.varlink.service.InvalidParameter", {"parameter": parameter})


class Server:
    """Serves one listening socket until it is closed; calls that run have `grace` seconds then."""

    def __init__(
        self, listener: socket.socket, handler: Handler, *, patience: float = PATIENCE, grace: float = GRACE
    ) -> None:
        self._listener = listener
        self._grace = grace
        self._handler = handler
        self._patience = patience
        self._tasks = Tasks()
        self._idle: set[asyncio.Task[None]] = set()
        self._closing = False

    def start(self) -> None:
        self._listener.setblocking(False)
        self._listen()

    async def close(self) -> None:
        """Take no more connections; those that were answered end now, the others have a while for their call.

        Who connects after this waits in the socket for whoever serves it next.
        """
        self._closing = True
        asyncio.get_running_loop().remove_reader(self._listener)
        for task in self._idle:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._grace)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _listen(self) -> None:
        if not self._closing:
            asyncio.get_running_loop().add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        """Take one connection, in one go: none may be lost between its acceptance and its task."""
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as error:  # out of descriptors: those that are served give some back
            log.warning("cannot accept a connection: %s", error)
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._listener)
            loop.call_later(0.1, self._listen)
            return
        self._tasks.start(self._serve(connection))

    async def _serve(self, connection: socket.socket) -> None:
        with connection:
            connection.setblocking(False)
            if _peer_uid(connection) != 0:
                return
            with _Channel(connection) as channel:
                answered = False
                try:
                    while message := await self._message(channel, answered):
                        await self._call(channel, *message)
                        answered = True
                except (ConnectionError, TimeoutError) as error:
                    log.debug("a connection ended: %s", error or "its caller takes no answer")

    async def _message(self, channel: _Channel, answered: bool) -> tuple[bytes, list[int]] | None:
        """The next message, or None at the end: the caller's, ours, or that of our patience with it.

        While a caller that was answered before sends none, close() need not wait for it.
        """
        task = asyncio.current_task()
        assert task is not None
        if answered and self._closing:
            return None
        if answered:
            self._idle.add(task)
        try:
            async with asyncio.timeout(self._patience):
                return await channel.receive()
        except (TimeoutError, ValueError) as error:
            log.debug("a caller is left: %s", error or "it sends no message")
        finally:
            self._idle.discard(task)
        await self._send(channel, _failed(invalid("method")))
        return None

    async def _send(self, channel: _Channel, reply: dict[str, Any]) -> None:
        async with asyncio.timeout(self._patience):
            await channel.send(json.dumps(reply, separators=(",", ":")).encode() + b"\0")

    async def _call(self, channel: _Channel, raw: bytes, descriptors: list[int]) -> None:
        oneway = False
        try:
            method, parameters, oneway = _request(raw)
            reply: dict[str, Any] = {
                "parameters": await self._handled(channel, method, parameters, descriptors)
            }
        except VarlinkError as error:
            reply = _failed(error)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        if not oneway:
            await self._send(channel, reply)

    async def _handled(
        self, channel: _Channel, method: str, parameters: dict[str, Any], descriptors: list[int]
    ) -> dict[str, Any]:
        """The handler's answer; ConnectionError, and the handler cancelled, when the caller goes away first."""
        task = asyncio.current_task()
        assert task is not None
        try:
            with channel.at_its_end(task.cancel):
                return await self._handler(method, parameters, descriptors)
        except asyncio.CancelledError:
            if not channel.over or task.uncancel() > 0:
                raise
            raise ConnectionError("the caller went away during its call") from None


class _Channel:
    """One connection: messages in, with the descriptors that came along, and messages out.

    What comes is read when it comes, also during a call.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray()
        self._taken = 0  # bytes of the messages before the buffer
        self._descriptors: list[tuple[int, int]] = []  # each with the number of the byte that it came with
        self._waiter: asyncio.Future[None] | None = None
        self._at_its_end: Callable[[], Any] | None = None
        self._failure: Exception | None = None
        self.over = False
        """Whether nothing more will come."""
        # By its number: of a socket object that it does not know yet the loop first makes an error text.
        self._loop.add_reader(connection.fileno(), self._read)
        self._read()  # who connects has sent already, as a rule

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.remove_reader(self._connection.fileno())
        for _at, descriptor in self._descriptors:
            with contextlib.suppress(OSError):
                os.close(descriptor)

    async def receive(self) -> tuple[bytes, list[int]] | None:
        """The next message, or None at the end.  ValueError when it is too long.

        After a failure none of those that are here: a descriptor may be missing from each.
        """
        while True:
            if self._failure is not None:
                raise self._failure
            if (end := self._buffer.find(b"\0")) >= 0:
                break
            if self.over:
                return None
            self._waiter = self._loop.create_future()
            await self._waiter
        message = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        self._taken += end + 1
        descriptors = [descriptor for at, descriptor in self._descriptors if at <= self._taken]
        self._descriptors = [pair for pair in self._descriptors if pair[0] > self._taken]
        return message, descriptors

    @contextlib.contextmanager
    def at_its_end(self, work: Callable[[], Any]) -> Iterator[None]:
        """Have `work` done once nothing more will come, in this context."""
        self._at_its_end = work
        if self.over:
            work()
        try:
            yield
        finally:
            self._at_its_end = None

    def _read(self) -> None:
        try:
            data, descriptors, flags, _ = socket.recv_fds(
                self._connection, _CHUNK, _MAX_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
            )
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._end(ConnectionError(error.strerror))
            return
        self._buffer += data
        # The kernel ends a read behind the write that descriptors came with, never before it.
        self._descriptors += [(self._taken + len(self._buffer), descriptor) for descriptor in descriptors]
        if len(self._buffer) > MAX_MESSAGE or len(self._descriptors) > _MAX_DESCRIPTORS:
            self._end(ValueError("a message is too long"))
        elif flags & socket.MSG_CTRUNC:
            log.warning("a call is not served: no descriptor is free for the one that came with it")
            self._end(ConnectionError("a descriptor was lost"))
        elif not data:
            self._end(None)
        elif self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _end(self, failure: Exception | None) -> None:
        self._loop.remove_reader(self._connection.fileno())
        self._failure, self.over = failure, True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        if self._at_its_end is not None:
            self._at_its_end()

    async def send(self, data: bytes) -> None:
        await self._loop.sock_sendall(self._connection, data)


def _failed(error: VarlinkError) -> dict[str, Any]:
    return {"error": error.name, "parameters": error.parameters}


def _request(raw: bytes) -> tuple[str, dict[str, Any], bool]:
    try:
        message = json.loads(raw)
        method, parameters = message["method"], message.get("parameters")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise invalid("method") from None
    parameters = {} if parameters is None else parameters
    if not isinstance(method, str) or not isinstance(parameters, dict):
        raise invalid("method" if not isinstance(method, str) else "parameters")
    return method, parameters, bool(message.get("oneway"))


def _peer_uid(connection: socket.socket) -> int:
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", credentials)[1])
