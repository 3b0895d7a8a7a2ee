"""The server on a real socket, with callers that are wrong, slow, many, strangers, or gone."""

from __future__ import annotations

import array
import asyncio
import contextlib
import itertools
import json
import os
import resource
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

import pytest

from terwayd.api.varlink import MAX_MESSAGE, PATIENCE, Server, VarlinkError, invalid

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="root alone is served")

PROMPT = 5.0  # seconds that anything here may take
NO_CALL = b'{"error":"org.varlink.service.InvalidParameter","parameters":{"parameter":"method"}}\0'
numbers = itertools.count()


class Handler:
    """Methods to be called, and what became of them."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.cancelled: list[str] = []
        self.release = asyncio.Event()

    async def __call__(
        self, method: str, parameters: dict[str, Any], descriptors: list[int]
    ) -> dict[str, Any]:
        self.calls.append(method)
        match method:
            case "echo":
                return parameters
            case "inodes":
                return {"inodes": [os.fstat(descriptor).st_ino for descriptor in descriptors]}
            case "hang":
                try:
                    await self.release.wait()
                except asyncio.CancelledError:
                    self.cancelled.append(str(parameters.get("name", "")))
                    raise
                return {"released": True}
            case "large":
                return {"text": "x" * parameters["size"]}
            case "wrong":
                raise invalid("colour")
        raise VarlinkError("org.varlink.service.MethodNotFound", {"method": method})


class Caller:
    """One connection to the server."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._buffer = b""

    async def send(self, data: bytes, descriptors: list[int] | None = None) -> None:
        loop = asyncio.get_running_loop()
        if descriptors:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
            assert self.sock.sendmsg([data[:1]], rights) == 1
            data = data[1:]
        await asyncio.wait_for(loop.sock_sendall(self.sock, data), PROMPT)

    async def raw(self) -> bytes:
        """The next reply as it came, with its NUL; b"" when the server has closed."""
        loop = asyncio.get_running_loop()
        while b"\0" not in self._buffer:
            try:
                chunk = await asyncio.wait_for(loop.sock_recv(self.sock, 1 << 18), PROMPT)
            except ConnectionResetError:
                chunk = b""
            if not chunk:
                return b""
            self._buffer += chunk
        reply, _, self._buffer = self._buffer.partition(b"\0")
        return reply + b"\0"

    async def reply(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads((await self.raw())[:-1])
        return answer

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        await self.send(message(method, **parameters))
        return await self.reply()

    def close(self) -> None:
        self.sock.close()


class Running:
    """The server under test."""

    def __init__(self, patience: float = PATIENCE, grace: float = 0.1) -> None:
        self.handler = Handler()
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(f"\0terwayd-test-{os.getpid()}-{next(numbers)}")
        self.listener.listen(512)
        self.server = Server(self.listener, self.handler, patience=patience, grace=grace)
        self.callers: list[Caller] = []

    async def caller(self) -> Caller:
        sock = socket.socket(socket.AF_UNIX)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, self.listener.getsockname())
        self.callers.append(Caller(sock))
        return self.callers[-1]


@contextlib.asynccontextmanager
async def running(patience: float = PATIENCE) -> AsyncIterator[Running]:
    """A server, and afterwards no descriptor more than before."""
    before, tasks = descriptors(), asyncio.all_tasks()
    it = Running(patience)
    it.server.start()
    try:
        yield it
        caller = await it.caller()
        assert await caller.call("echo", still="there") == {"parameters": {"still": "there"}}
    finally:
        await asyncio.wait_for(it.server.close(), PROMPT)
        for one in it.callers:
            one.close()
        it.listener.close()
    assert descriptors() == before
    assert asyncio.all_tasks() == tasks


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def message(method: str, **parameters: Any) -> bytes:
    return json.dumps({"method": method, "parameters": parameters}).encode() + b"\0"


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 30))


async def until(condition: Any) -> None:
    async with asyncio.timeout(PROMPT):
        while not condition():
            await asyncio.sleep(0.002)


def test_a_reply_is_compact_and_in_the_order_that_the_plugin_relies_on() -> None:
    async def work() -> None:
        async with running() as it:
            caller = await it.caller()
            await caller.send(message("echo", b=1, a="ä\udcff"))
            assert await caller.raw() == b'{"parameters":{"b":1,"a":"\\u00e4\\udcff"}}\0'
            await caller.send(message("echo"))
            assert await caller.raw() == b'{"parameters":{}}\0'
            await caller.send(message("wrong"))
            assert await caller.raw() == (
                b'{"error":"org.varlink.service.InvalidParameter","parameters":{"parameter":"colour"}}\0'
            )
            await caller.send(message("io.terway.Nothing"))
            assert await caller.raw() == (
                b'{"error":"org.varlink.service.MethodNotFound","parameters":{"method":"io.terway.Nothing"}}\0'
            )

    run(work())


def test_calls_in_a_row_at_once_and_in_pieces() -> None:
    async def work() -> None:
        async with running() as it:
            caller = await it.caller()
            for number in range(5):
                assert await caller.call("echo", n=number) == {"parameters": {"n": number}}
            await caller.send(b"".join(message("echo", n=number) for number in range(50)))
            assert [await caller.reply() for _ in range(50)] == [{"parameters": {"n": n}} for n in range(50)]
            for byte in message("echo", n=7):
                await caller.send(bytes([byte]))
                await asyncio.sleep(0)
            assert await caller.reply() == {"parameters": {"n": 7}}

    run(work())


GARBAGE = [
    *(b"", b"garbage", b"[]", b"{}", b"null", b"7", b'"text"', b"\xff\xfe\xff", b"{" * 100000, b"[" * 100000),
    *(b'{"method":7}', b'{"method":null}', b'{"method":["echo"]}', b'{"parameters":{}}', b'{"method":"echo"'),
]
NO_PARAMETERS = [
    b'{"method":"echo","parameters":%s}' % value
    for value in (b"[1]", b'"x"', b"7", b"[]", b"0", b'""', b"false")
]


@pytest.mark.parametrize("text", [*GARBAGE, *NO_PARAMETERS], ids=lambda text: repr(text[:40]))
def test_what_is_no_call_is_told_and_the_next_one_served(text: bytes) -> None:
    async def work() -> None:
        async with running() as it:
            caller = await it.caller()
            await caller.send(text + b"\0")
            reply = await caller.reply()
            assert reply["error"] == "org.varlink.service.InvalidParameter"
            assert reply["parameters"]["parameter"] == ("parameters" if text in NO_PARAMETERS else "method")
            assert it.handler.calls == []
            assert await caller.call("echo", n=1) == {"parameters": {"n": 1}}

    run(work())


@pytest.mark.parametrize("text", [b'{"method":"echo"}', b'{"method":"echo","parameters":null}'])
def test_parameters_may_be_missing(text: bytes) -> None:
    async def work() -> None:
        async with running() as it:
            caller = await it.caller()
            await caller.send(text + b"\0")
            assert await caller.reply() == {"parameters": {}}

    run(work())


def test_a_call_that_wants_no_reply_gets_none() -> None:
    async def work() -> None:
        async with running() as it:
            caller = await it.caller()
            for method in ("echo", "wrong", "nothing"):
                await caller.send(json.dumps({"method": method, "oneway": True}).encode() + b"\0")
            assert await caller.call("echo", n=1) == {"parameters": {"n": 1}}
            assert it.handler.calls == ["echo", "wrong", "nothing", "echo"]

    run(work())


def test_a_message_without_an_end() -> None:
    async def work() -> None:
        async with running() as it:
            for text in (b"", b"{", message("echo")[:-1]):
                caller = await it.caller()
                await caller.send(text)
                caller.sock.shutdown(socket.SHUT_WR)
                assert await caller.raw() == b""
            assert it.handler.calls == []

    run(work())


def test_half_a_message_keeps_nobody_waiting() -> None:
    async def work() -> None:
        async with running() as it:
            slow = await it.caller()
            await slow.send(message("echo", n=1)[:10])
            other = await it.caller()
            assert await other.call("echo", n=2) == {"parameters": {"n": 2}}
            await slow.send(message("echo", n=1)[10:])
            assert await slow.reply() == {"parameters": {"n": 1}}

    run(work())


def test_a_running_call_keeps_nobody_waiting() -> None:
    async def work() -> None:
        async with running() as it:
            slow, other = await it.caller(), await it.caller()
            await slow.send(message("hang"))
            await until(lambda: it.handler.calls == ["hang"])
            assert await other.call("echo", n=2) == {"parameters": {"n": 2}}
            it.handler.release.set()
            assert await slow.reply() == {"parameters": {"released": True}}

    run(work())


def test_a_message_may_be_large_but_not_too_large() -> None:
    async def work() -> None:
        async with running() as it:
            caller = await it.caller()
            text = "x" * (MAX_MESSAGE - 100)
            assert await caller.call("echo", text=text) == {"parameters": {"text": text}}
            for data in (message("echo", text="x" * (5 << 20)), b"x" * (5 << 20)):
                greedy = await it.caller()
                with contextlib.suppress(ConnectionError):
                    await greedy.send(data)
                told = await greedy.raw()  # lost where the kernel tells first that the rest was not read
                assert told in (b"", NO_CALL)
                assert await greedy.raw() == b"", "the server closes"
            assert it.handler.calls == ["echo"]
            assert await caller.call("echo", n=1) == {"parameters": {"n": 1}}

    run(work())


def test_a_caller_may_send_too_much_during_its_call() -> None:
    async def work() -> None:
        async with running() as it:
            caller = await it.caller()
            await caller.send(message("hang", name="greedy"))
            with contextlib.suppress(ConnectionError):
                await caller.send(b"x" * (5 << 20))
            await until(lambda: it.handler.cancelled == ["greedy"])

    run(work())


def test_a_large_reply_to_a_slow_reader_keeps_nobody_waiting() -> None:
    async def work() -> None:
        async with running() as it:
            slow, other = await it.caller(), await it.caller()
            await slow.send(message("large", size=8 << 20))
            await until(lambda: it.handler.calls == ["large"])
            assert await other.call("echo", n=2) == {"parameters": {"n": 2}}
            assert len(await slow.raw()) == (8 << 20) + len(b'{"parameters":{"text":""}}\0')

    run(work())


def test_two_hundred_callers_at_once() -> None:
    async def work() -> None:
        async with running() as it:
            callers = [await it.caller() for _ in range(200)]
            for caller in callers:
                await caller.send(message("hang"))
            await until(lambda: len(it.handler.calls) == 200)
            it.handler.release.set()
            assert [await caller.reply() for caller in callers] == [{"parameters": {"released": True}}] * 200
            replies = await asyncio.gather(*(caller.call("echo", n=n) for n, caller in enumerate(callers)))
            assert replies == [{"parameters": {"n": n}} for n in range(200)]

    run(work())


def test_without_a_free_descriptor_callers_wait_and_are_served_then() -> None:
    async def work() -> None:
        async with running() as it:
            await asyncio.sleep(0)
            it.callers += [Caller(socket.socket(socket.AF_UNIX)) for _ in range(5)]
            for caller in it.callers:  # they are in the queue: nothing is accepted before the next await
                caller.sock.connect(it.listener.getsockname())
                caller.sock.setblocking(False)
            os.close(free := os.dup(0))
            limits = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (free + 2, limits[1]))
            try:
                waiting = [asyncio.ensure_future(caller.call("echo", n=1)) for caller in it.callers]
                await until(lambda: [task.done() for task in waiting].count(True) == 2)
                await asyncio.sleep(0.05)
                assert [task.done() for task in waiting].count(True) == 2
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            assert await asyncio.gather(*waiting) == [{"parameters": {"n": 1}}] * 5

    run(work())


@contextlib.contextmanager
def files(count: int) -> Any:
    opened = [os.memfd_create(f"test-{number}") for number in range(count)]
    try:
        yield opened
    finally:
        for descriptor in opened:
            os.close(descriptor)


def test_descriptors_come_along_and_are_closed() -> None:
    async def work() -> None:
        with files(2) as opened:
            inodes = [os.fstat(descriptor).st_ino for descriptor in opened]
            async with running() as it:
                caller = await it.caller()
                for _ in range(3):
                    await caller.send(message("inodes"), opened)
                    assert await caller.reply() == {"parameters": {"inodes": inodes}}
                assert await caller.call("inodes") == {"parameters": {"inodes": []}}
                before = descriptors()
                for text in (message("wrong"), message("nothing"), b"garbage\0"):
                    await caller.send(text, opened)
                    assert "error" in await caller.reply()
                assert descriptors() == before

    run(work())


def test_descriptors_of_who_goes_or_sends_too_many_are_closed() -> None:
    async def work() -> None:
        with files(20) as opened:
            async with running() as it:
                before = descriptors()
                for data, count in ((b"{", 1), (message("hang", name="a"), 2), (message("echo"), 20)):
                    caller = await it.caller()
                    await caller.send(data, opened[:count])
                    await asyncio.sleep(0.02)
                    caller.close()
                many = await it.caller()
                with contextlib.suppress(ConnectionError):
                    for descriptor in opened:
                        await many.send(b"x", [descriptor])
                assert await many.raw() in (b"", NO_CALL)
                many.close()
                await until(lambda: descriptors() == before)
                assert it.handler.cancelled == ["a"]

    run(work())


def test_a_call_whose_descriptor_was_lost_is_not_served_without_it() -> None:
    async def work() -> None:
        with files(1) as opened:
            async with running() as it:
                caller = await it.caller()
                assert await caller.call("inodes") == {"parameters": {"inodes": []}}
                os.close(free := os.dup(0))
                limits = resource.getrlimit(resource.RLIMIT_NOFILE)
                resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
                try:
                    socket.send_fds(caller.sock, [message("inodes")], opened)
                    assert await caller.raw() == b""
                finally:
                    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
                assert it.handler.calls == ["inodes"]

    run(work())


def test_a_descriptor_belongs_to_the_call_that_it_came_with() -> None:
    """Also when the calls before it are not answered yet."""

    async def work() -> None:
        with files(1) as opened:
            inode = os.fstat(opened[0]).st_ino
            async with running() as it:
                caller = await it.caller()
                await caller.send(message("hang"))
                await caller.send(message("inodes"))
                await caller.send(message("inodes"), opened)
                await asyncio.sleep(0.02)
                it.handler.release.set()
                assert await caller.reply() == {"parameters": {"released": True}}
                assert await caller.reply() == {"parameters": {"inodes": []}}
                assert await caller.reply() == {"parameters": {"inodes": [inode]}}

    run(work())


def test_who_says_nothing_whole_or_takes_no_answer_is_left() -> None:
    """A call that runs may take as long as its handler wants."""

    async def work() -> None:
        async with running(patience=0.2) as it:
            silent, slow, deaf, busy = [await it.caller() for _ in range(4)]
            await slow.send(b'{"method":')
            await deaf.send(message("large", size=1 << 22))
            await busy.send(message("hang"))
            for caller in (silent, slow):
                assert (await caller.raw(), await caller.raw()) == (NO_CALL, b"")
            await until(lambda: len(it.server._tasks) == 1)
            it.handler.release.set()
            assert await busy.reply() == {"parameters": {"released": True}}

    run(work())


STRANGER = """
import os, socket, sys
os.setuid(65534)
s = socket.socket(socket.AF_UNIX)
s.settimeout(5)
s.connect("\\0" + sys.argv[1])
try:
    s.sendall(b'{"method":"echo"}\\0')
    print(len(s.recv(100)))
except (BrokenPipeError, ConnectionResetError):
    print(0)
"""


def test_nobody_but_root_is_served() -> None:
    async def work() -> None:
        async with running() as it:
            name = it.listener.getsockname()[1:].decode()
            done = await asyncio.to_thread(
                subprocess.run,
                [sys.executable, "-IS", "-c", STRANGER, name],
                capture_output=True,
                text=True,
                check=True,
            )
            assert done.stdout == "0\n"
            assert it.handler.calls == []

    run(work())


def test_a_caller_that_goes_ends_its_call() -> None:
    async def work() -> None:
        async with running() as it:
            caller, other = await it.caller(), await it.caller()
            await caller.send(message("hang", name="gone"))
            await other.send(message("hang", name="stays"))
            await until(lambda: len(it.handler.calls) == 2)
            caller.close()
            await until(lambda: it.handler.cancelled == ["gone"])
            it.handler.release.set()
            assert await other.reply() == {"parameters": {"released": True}}

    run(work())


def test_a_caller_that_goes_before_its_call_was_read() -> None:
    async def work() -> None:
        async with running() as it:
            for _ in range(20):
                caller = await it.caller()
                await caller.send(message("echo") * 3)
                caller.close()
            await until(lambda: len(it.server._tasks) == 0)

    run(work())


def test_closing_waits_for_calls_and_leaves_those_that_come_after_in_the_socket() -> None:
    async def work() -> None:
        it = Running(grace=PROMPT)
        it.server.start()
        running, idle = await it.caller(), await it.caller()
        assert await idle.call("echo") == {"parameters": {}}
        await running.send(message("hang"))
        await until(lambda: "hang" in it.handler.calls)
        fresh = await it.caller()  # accepted or not yet: it must be served all the same
        await asyncio.sleep(0)
        closing = asyncio.ensure_future(it.server.close())
        assert await idle.raw() == b""
        late = await it.caller()
        await fresh.send(message("echo", who="fresh"))
        await late.send(message("echo", who="late"))
        it.handler.release.set()
        assert await running.reply() == {"parameters": {"released": True}}
        await asyncio.wait_for(closing, PROMPT)
        it.server = Server(it.listener, it.handler)
        it.server.start()
        assert await late.reply() == {"parameters": {"who": "late"}}
        assert await fresh.reply() == {"parameters": {"who": "fresh"}}
        await it.server.close()
        for caller in it.callers:
            caller.close()
        it.listener.close()

    run(work())


def test_closing_ends_all_calls() -> None:
    async def work() -> None:
        before = descriptors()
        it = Running()
        it.server.start()
        callers = [await it.caller() for _ in range(3)]
        for number, caller in enumerate(callers[:2]):
            await caller.send(message("hang", name=number))
        await until(lambda: len(it.handler.calls) == 2)
        await asyncio.wait_for(it.server.close(), PROMPT)
        assert sorted(it.handler.cancelled) == ["0", "1"]
        assert [await caller.raw() for caller in callers] == [b""] * 3
        for caller in callers:
            caller.close()
        it.listener.close()
        assert descriptors() == before

    run(work())
