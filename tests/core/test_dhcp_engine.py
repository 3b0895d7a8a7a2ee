"""The engine over a transport made of a list, its clock in the test's hand."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import random
import time
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import replace
from typing import Any

import pytest

from terwayd.dhcp import frame
from terwayd.dhcp.engine import Engine
from terwayd.dhcp.messages import Identity
from terwayd.dhcp.options import Code, Kind
from terwayd.dhcp.outcome import Bound, Event, Lost, Renewed
from terwayd.dhcp.packet import Message
from terwayd.dhcp.table import State
from terwayd.errors import DhcpError
from tests.core.dhcp import IP, a_lease, framed, reply


class Wire:
    """A transport that a test looks into, with a server that answers what `answers` says."""

    def __init__(self) -> None:
        self.answers = {Kind.DISCOVER: Kind.OFFER, Kind.REQUEST: Kind.ACK}
        self.sent: list[Message] = []
        self.error: OSError | None = None
        self.closed = False
        self.on_frame: Callable[[bytes | memoryview, bool], None] = lambda data, ready: None

    has_local = False

    def send_local(self, frame: bytes, *, to_pod: bool) -> None:
        raise AssertionError("there is nothing local")

    def send(self, data: bytes) -> None:
        if self.error is not None:
            raise self.error
        datagram = frame.parse(data)
        assert datagram is not None
        message = Message.parse(datagram.payload)
        assert datagram.source_mac == message.chaddr
        self.sent.append(message)
        answer = self.answers.get(message.kind or Kind.INFORM)
        if answer is not None:
            asyncio.get_running_loop().call_soon(self.deliver, self.answer_to(message, answer))

    def answer_to(self, message: Message, kind: Kind) -> Message:
        """From a server that gives each MAC an address of its own."""
        ip = IP - 1 + int.from_bytes(message.chaddr[4:], "big")
        return reply(message, kind, ip=ip, more={Code.SUBNET_MASK: b"\xff\xff\0\0"})

    def deliver(self, message: Message) -> None:
        data = framed(message.encode(), mac=message.chaddr, ip=message.yiaddr)
        self.on_frame(memoryview(data), True)

    def close(self) -> None:
        self.closed = True

    def kinds(self) -> list[Kind | None]:
        return [message.kind for message in self.sent]


class World:
    def __init__(self) -> None:
        self.now = 0.0
        self.clock: Callable[[], float] = lambda: self.now
        self.wire = Wire()
        self.events: list[tuple[Hashable, Event]] = []
        self.on_event: Callable[[Hashable, Event], None] = lambda key, event: self.events.append((key, event))
        self.why_not = ""
        self.engine = Engine(
            self.wire,
            clock=lambda: self.clock(),
            rng=random.Random(1),
            on_event=lambda key, event: self.on_event(key, event),
            why_not=lambda key, ip: self.why_not,
            discover_rate=10_000,
        )

    def at(self, now: float) -> None:
        self.now = now
        self.engine.wake()


def pod(number: int = 1) -> Identity:
    return Identity(bytes((2, 0, 0, 0, number >> 8, number & 255)), b"\x00pod")


def run(test: Callable[[World], Coroutine[Any, Any, None]]) -> None:
    async def body() -> None:
        world = World()
        await asyncio.wait_for(test(world), 5)
        world.engine.close()
        assert world.wire.closed

    asyncio.run(body())


def test_acquire_renew_and_release() -> None:
    async def body(it: World) -> None:
        lease = await it.engine.acquire("a", pod(), timeout=1)
        assert it.engine.state("a") is State.BOUND
        assert it.engine.lease("a") == lease
        assert it.engine.keys() == ("a",)
        assert it.events == []
        assert await it.engine.acquire("a", pod(), timeout=1) == lease
        assert it.wire.kinds() == [Kind.DISCOVER, Kind.REQUEST]
        it.at(300)
        await asyncio.sleep(0)
        assert [(key, type(event)) for key, event in it.events] == [("a", Renewed)]
        it.engine.release("a")
        assert it.wire.kinds()[-1] is Kind.RELEASE
        assert it.engine.keys() == ()
        assert it.engine.state("a") is None
        assert it.engine.lease("a") is None
        it.engine.release("a")
        it.engine.forget("a")
        assert len(it.wire.sent) == 4

    run(body)


def test_renewed_and_replaced_by_hand() -> None:
    async def body(it: World) -> None:
        first = await it.engine.acquire("a", pod(), timeout=1)
        it.now = 10
        renewed = await it.engine.renew("a", timeout=1)
        assert renewed.expires_at == first.expires_at + 10
        again = await it.engine.replace("a", timeout=1)
        assert it.wire.kinds()[-3:] == [Kind.RELEASE, Kind.DISCOVER, Kind.REQUEST]
        assert it.engine.lease("a") == again
        assert [type(event) for _, event in it.events] == [Renewed, Lost, Bound]
        it.wire.answers = {Kind.REQUEST: Kind.NAK}
        with pytest.raises(DhcpError, match="the server refused it"):
            await it.engine.renew("a", timeout=1)
        with pytest.raises(DhcpError, match="there is no lease"):
            await it.engine.renew("a", timeout=1)

    run(body)


def test_nobody_answers_a_change_by_hand() -> None:
    async def body(it: World) -> None:
        lease = await it.engine.acquire("a", pod(), timeout=1)
        it.wire.answers = {}
        with pytest.raises(DhcpError, match=r"not extended: 1 REQUEST .* it goes on as it was"):
            await it.engine.renew("a", timeout=0.02)
        assert it.engine.lease("a") == lease
        asking = asyncio.create_task(it.engine.renew("a", timeout=5))
        await asyncio.sleep(0)
        with pytest.raises(DhcpError, match="is being renewed already"):
            await it.engine.renew("a", timeout=1)
        it.engine.release("a")  # a DEL
        with pytest.raises(DhcpError, match="was stopped"):
            await asking
        it.wire.answers = {Kind.DISCOVER: Kind.OFFER, Kind.REQUEST: Kind.ACK}
        await it.engine.acquire("b", pod(2), timeout=1)
        it.wire.answers = {}
        with pytest.raises(DhcpError, match=r"no lease: 1 DISCOVER .* it is asked for still"):
            await it.engine.replace("b", timeout=0.02)
        assert it.engine.state("b") is State.SELECTING

    run(body)


def test_replies_find_their_client() -> None:
    async def body(it: World) -> None:
        leases = await asyncio.gather(*(it.engine.acquire(n, pod(n), timeout=1) for n in range(300)))
        assert [lease.address.ip for lease in leases] == [IP - 1 + n for n in range(300)]

    run(body)


def test_no_answer() -> None:
    async def body(it: World) -> None:
        it.wire.answers = {}
        with pytest.raises(
            DhcpError, match=r"02:00:00:00:00:01: 1 DISCOVER sent in 0 s, no OFFER came back"
        ) as caught:
            await it.engine.acquire("a", pod(), timeout=0.02)
        assert "port security" in caught.value.hint
        assert it.engine.keys() == ()
        it.wire.answers = {Kind.DISCOVER: Kind.OFFER}
        with pytest.raises(
            DhcpError, match=r"1 OFFER came back; 1 REQUEST for 192.0.2.57 .* no ACK"
        ) as caught:
            await it.engine.acquire("a", pod(), timeout=0.02)
        assert "log of the DHCP server" in caught.value.hint
        assert it.wire.kinds()[-1] is Kind.RELEASE  # the server may have given it

    run(body)


def test_cancelled_when_the_lease_is_just_there() -> None:
    async def body(it: World) -> None:
        task = asyncio.create_task(it.engine.acquire("a", pod(), timeout=1))
        while it.engine.lease("a") is None:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert it.wire.kinds() == [Kind.DISCOVER, Kind.REQUEST, Kind.RELEASE]
        assert it.engine.keys() == ()

    run(body)


def test_forgotten_and_closed_while_somebody_waits() -> None:
    async def body(it: World) -> None:
        it.wire.answers = {}
        first = asyncio.create_task(it.engine.acquire("a", pod(), timeout=1))
        second = asyncio.create_task(it.engine.acquire("b", pod(2), timeout=1))
        await asyncio.sleep(0)
        with pytest.raises(DhcpError, match="already"):
            await it.engine.acquire("a", pod(), timeout=1)
        it.engine.forget("a")
        with pytest.raises(DhcpError, match="stopped"):
            await first
        it.engine.close()
        with pytest.raises(DhcpError, match="stopped"):
            await second
        with pytest.raises(DhcpError, match="about to end"):
            await it.engine.acquire("c", pod(3), timeout=1)

    run(body)


def test_a_link_that_is_down_is_tried_again() -> None:
    async def body(it: World) -> None:
        it.wire.error = OSError(errno.ENETDOWN, "Network is down")
        task = asyncio.create_task(it.engine.acquire("a", pod(), timeout=2))
        await asyncio.sleep(0)
        assert it.engine.state("a") is State.SELECTING
        it.wire.error = None
        it.at(2)
        await task

    run(body)


def test_an_address_that_this_node_knows_to_be_taken() -> None:
    """By another of its clients, or by itself: no pod gets it, whatever a server gives; it is declined, and told."""

    async def body(it: World) -> None:
        first = await it.engine.acquire("a", pod(), timeout=1)
        it.wire.answer_to = lambda message, kind: reply(message, kind, ip=first.address.ip)  # type: ignore[method-assign]
        task = asyncio.create_task(it.engine.acquire("b", pod(2), timeout=1))
        await asyncio.sleep(0.05)
        assert it.wire.kinds()[2:] == [Kind.DISCOVER], "another server may have a better one"
        it.at(0.3)
        with pytest.raises(DhcpError, match=r"it is for 192.0.2.57, which another client of this node has"):
            await task
        assert it.wire.kinds()[2:] == [Kind.DISCOVER, Kind.REQUEST, Kind.DECLINE]
        it.engine.release("a")
        it.why_not = "which is the gateway's"
        with pytest.raises(DhcpError, match=r"it is for 192.0.2.57, which is the gateway's"):
            await it.engine.acquire("b", pod(2), timeout=0.05)

    run(body)


def test_an_answer_for_another_mac_is_told() -> None:
    async def body(it: World) -> None:
        it.wire.answer_to = lambda message, kind: replace(reply(message, kind), chaddr=pod(9).mac)  # type: ignore[method-assign]
        with pytest.raises(
            DhcpError,
            match=r"no OFFER came back; not taken: 1 OFFER of 192.0.2.1: it is for 02:00:00:00:00:09",
        ):
            await it.engine.acquire("a", pod(), timeout=0.05)

    run(body)


def test_adopt() -> None:
    async def body(it: World) -> None:
        it.at(400)
        it.engine.adopt("a", pod(), a_lease())
        assert it.engine.state("a") is State.INIT_REBOOT
        it.at(402)
        await asyncio.sleep(0)
        assert [type(event) for _, event in it.events] == [Renewed]
        it.at(2000)  # past the end: it is lost, and a new one is had
        for _ in range(4):
            await asyncio.sleep(0)
        assert [type(event) for _, event in it.events] == [Renewed, Lost, Bound]

    run(body)


def test_an_event_may_end_its_client() -> None:
    async def body(it: World) -> None:
        it.on_event = lambda key, event: it.engine.release(key)
        it.engine.adopt("a", pod(), a_lease())
        it.engine.adopt("b", pod(2), a_lease())
        it.at(10_000)
        assert it.engine.keys() == ()

    run(body)


def test_trouble_with_one_event_leaves_the_others_alone(caplog: pytest.LogCaptureFixture) -> None:
    async def body(it: World) -> None:
        def fail(key: Hashable, event: Event) -> None:
            raise ZeroDivisionError

        it.on_event = fail
        it.engine.adopt("a", pod(), a_lease())
        it.engine.adopt("b", pod(2), a_lease())
        it.at(10_000)
        assert it.engine.state("a") is State.SELECTING
        assert it.engine.state("b") is State.SELECTING

    run(body)
    assert caplog.text.count("could not act on Lost") == 2


def test_frames_that_are_for_nobody() -> None:
    async def body(it: World) -> None:
        lease = await it.engine.acquire("a", pod(), timeout=1)
        last = it.wire.sent[-1]
        it.wire.deliver(reply(last, Kind.NAK))  # bound: nobody asked
        it.wire.deliver(Message(op=2, xid=1, chaddr=pod().mac))
        it.wire.on_frame(b"\0" * 60, True)
        it.wire.on_frame(b"", True)
        assert it.engine.lease("a") == lease

    run(body)


def test_the_loop_wakes_by_itself() -> None:
    async def body(it: World) -> None:
        loop = asyncio.get_running_loop()
        start = loop.time()
        it.clock = lambda: loop.time() - start
        it.wire.answers = {}
        with contextlib.suppress(DhcpError):
            await it.engine.acquire("a", pod(), timeout=1.5)
        assert it.wire.kinds() == [Kind.DISCOVER] * 2

    run(body)


def test_a_clock_that_leapt_delays_nobody() -> None:
    """After the machine slept, the timer that was set before counts on; a new client must not wait for it."""

    async def body(it: World) -> None:
        loop = asyncio.get_running_loop()
        leap = 0.0
        it.clock = lambda: loop.time() + leap
        it.engine.adopt("a", pod(), a_lease().shifted(loop.time()))
        leap = 299.9  # T1 of "a" is near now, its timer half a minute away
        it.wire.answers = {}
        with contextlib.suppress(DhcpError):
            await it.engine.acquire("b", pod(2), timeout=1.4)
        assert it.wire.kinds().count(Kind.DISCOVER) == 2

    run(body)


def test_no_more_discovers_a_second_than_allowed() -> None:
    async def body() -> None:
        wire = Wire()
        engine = Engine(
            wire, clock=time.monotonic, rng=random.Random(1), on_event=lambda *_: None, discover_rate=5
        )
        pods = [Identity(bytes((2, 0, 0, 0, 0, n)), b"%d" % n) for n in range(8)]
        began = time.monotonic()
        leases = asyncio.gather(*(engine.acquire(n, pod, timeout=5) for n, pod in enumerate(pods)))
        await asyncio.sleep(0)
        assert wire.kinds().count(Kind.DISCOVER) == 5
        await leases
        assert wire.kinds().count(Kind.DISCOVER) == 8, (
            "one that was held is not sent for a client that is done"
        )
        assert 0.55 <= time.monotonic() - began <= 3
        engine.close()

    asyncio.run(body())


def test_a_discover_that_was_held_is_not_sent_for_a_client_that_has_gone() -> None:
    async def body() -> None:
        wire = Wire()
        wire.answers = {}
        engine = Engine(
            wire, clock=time.monotonic, rng=random.Random(1), on_event=lambda *_: None, discover_rate=5
        )
        asking = [asyncio.create_task(engine.acquire(n, pod(n), timeout=5)) for n in range(7)]
        await asyncio.sleep(0)
        assert wire.kinds() == [Kind.DISCOVER] * 5
        engine.forget(5)
        async with asyncio.timeout(5):
            while len(wire.sent) == 5:
                await asyncio.sleep(0.01)
        assert wire.sent[5].chaddr == pod(6).mac, "it is due 0.2 s after the one that has gone"
        engine.close()
        await asyncio.gather(*asking, return_exceptions=True)

    asyncio.run(body())
