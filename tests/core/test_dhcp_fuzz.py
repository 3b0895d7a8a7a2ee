"""Random bytes, and bytes that are much work: one parse error, quickly, and nothing believed that should not be."""

from __future__ import annotations

import gc
import math
import os
import random
import time
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Network

import pytest

from terwayd.dhcp import frame
from terwayd.dhcp import options as opt
from terwayd.dhcp.client import Client
from terwayd.dhcp.lease import LeaseError, lease_from
from terwayd.dhcp.options import Kind
from terwayd.dhcp.packet import MAX_SIZE, Message, PacketError
from terwayd.dhcp.table import State
from tests.core.dhcp import HEAD, POD, SERVER, SERVER_MAC, ack, framed


def mutated(rng: random.Random, seeds: list[bytes]) -> bytes:
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.randint(1, 8)):
        what = rng.randrange(5)
        at = rng.randrange(len(data)) if data else 0
        if what == 0 and data:
            data[at] = rng.randrange(256)
        elif what == 1 and data:
            data[at] ^= 1 << rng.randrange(8)
        elif what == 2:
            del data[at : at + rng.randint(1, 40)]
        elif what == 3:
            data[at:at] = rng.randbytes(rng.randint(1, 20))
        else:
            data[at : at + 2] = bytes(
                (rng.choice((1, 3, 6, 33, 51, 52, 53, 54, 61, 119, 121)), rng.randrange(256))
            )
    return bytes(data)


def seeds() -> list[bytes]:
    routes = opt.pack_classless_routes(
        [(IPv4Network("10.0.0.0/9"), SERVER), (IPv4Network("0.0.0.0/0"), None)]
    )
    many = ack(
        {
            121: routes,
            33: bytes(range(1, 17)),
            119: b"\x01a\x07example\0\x01b\xc0\x02",
            15: b"a.example",
            52: b"\3",
        }
    )
    more = [ack({80: b""}), ack({61: POD.client_id}, Kind.OFFER), many, ack({56: b"no"}, Kind.NAK)]
    return [*[one.encode() for one in more], HEAD + b"\xff", bytes(240), *SLOW.values()]


def long_option(code: int, raw: bytes) -> bytes:
    """In pieces, as long as a message may be."""
    room = MAX_SIZE - 300
    raw = (raw * (room // len(raw)))[: room // 257 * 255 // len(raw) * len(raw)]
    head = HEAD + bytes((51, 4, 0, 0, 2, 88))
    return head + b"".join(
        bytes((code, len(p))) + p for n in range(0, len(raw), 255) if (p := raw[n : n + 255])
    )


MANY_LABELS = b"\1a" * 126 + b"\0" + b"\xc0\0" * 31  # names of 126 labels, all but the first by a pointer
# Each the most work of its kind that a message can make.
SLOW = {
    "empty options": HEAD + b"\x07\0" * 600,
    "padding": HEAD + bytes(MAX_SIZE - 240),
    "one option in pieces": HEAD + b"\x07\1\1" * 400,
    "classless routes": long_option(121, b"\0\x0a\0\0\1"),
    "classless routes to hosts": long_option(121, b"\x20\x0a\0\0\1\x0a\0\0\1"),
    "static routes": long_option(33, bytes((10, 0, 0, 1, 10, 0, 0, 2))),
    "resolvers": long_option(6, bytes((10, 0, 0, 1))),
    "names of short labels": HEAD
    + bytes((51, 4, 0, 0, 2, 88, 119, 255))
    + MANY_LABELS[:255]
    + bytes((119, len(MANY_LABELS) - 255))
    + MANY_LABELS[255:],
    "many names": long_option(119, b"\1a\0"),
}


def test_a_search_list_of_many_labels() -> None:
    with pytest.raises(ValueError, match="512 labels"):
        opt.names(MANY_LABELS)


@pytest.mark.parametrize("name", SLOW)
def test_messages_made_to_be_slow(name: str) -> None:
    """Before there were bounds, 9 KB of static routes took 8 ms, and 530 bytes of names that point at names 1.1."""
    data = SLOW[name]
    assert len(data) <= MAX_SIZE
    Message.parse(data)
    assert min(seconds_for(Victim(1).take, data) for _ in range(20)) < 0.001
    with pytest.raises(PacketError, match="more than was asked for"):
        Message.parse(data.ljust(MAX_SIZE + 1, b"\0"))


class Victim:
    """All that bytes from the LAN pass through: frame, message, lease, and a client that waits for an answer."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.client = self.waiting()

    def waiting(self) -> Client:
        it = Client(POD, self.rng, rapid_commit=True)
        it.start(0.0)
        return it

    def take(self, data: bytes) -> None:
        """AssertionError for any error but PacketError and LeaseError, and for what is believed wrongly."""
        try:
            message = Message.parse(data)
            lease = lease_from(message, server_mac=SERVER_MAC, sent=0.0, fuzz=0.5)
        except (PacketError, LeaseError):
            return
        except Exception as error:
            raise AssertionError(f"{error!r} for {data.hex()}") from error
        assert lease.renew_at <= lease.rebind_at <= lease.expires_at
        assert lease.domain.isprintable()
        assert all(name.isprintable() for name in lease.search)

    def hear(self, data: bytes) -> None:
        """The same bytes as the engine gets them, in a frame, and then the client."""
        datagram = frame.parse(data, checksum_ready=False)
        if datagram is None:
            return
        try:
            message = Message.parse(datagram.payload)
        except PacketError:
            return
        if message.xid == 7:  # what the seeds have
            message = replace(message, xid=self.client.xid)
        try:
            self.client.receive(message, datagram.source_mac, 1.0)
        except Exception as error:
            raise AssertionError(f"{error!r} for {data.hex()}") from error


def seconds_for(what: Callable[[bytes], None], data: bytes) -> float:
    """CPU time of this thread: time in which the machine ran something else does not count."""
    began = time.thread_time()
    what(data)
    return time.thread_time() - began


def fuzz(seconds: float, inputs: float, seed: int) -> tuple[int, float, float]:
    """How many inputs were tried, and the longest that one took, at first and at best.

    An interrupt is counted in the CPU time of the thread that it hits, and so is the collector's run.  What takes
    long at first is tried again five times, without the collector: an input that costs a millisecond by itself
    costs it each time, and the least of the six is what counts.
    """
    victim = Victim(seed)
    base, rng, done, first, slowest = seeds(), victim.rng, 0, 0.0, 0.0
    frames = [framed(data) for data in base]
    end = time.monotonic() + seconds
    while done < inputs and time.monotonic() < end:
        for n in range(100):
            data, what = (
                (mutated(rng, frames), victim.hear) if n % 4 == 0 else (mutated(rng, base), victim.take)
            )
            if what == victim.hear and victim.client.state is not State.SELECTING:
                assert victim.client.journal.summary(1.0).isprintable()
                victim.client = victim.waiting()
            took = seconds_for(what, data)
            first = max(first, took)
            if took > slowest:
                gc.disable()
                took = min(took, *(seconds_for(what, data) for _ in range(5)))
                gc.enable()
                slowest = max(slowest, took)
            done += 1
    return done, first, slowest


def test_mutated_messages() -> None:
    """Five seconds of them; TERWAYD_FUZZ=10000000 for as many as that, however long they take."""
    wanted = int(os.environ.get("TERWAYD_FUZZ", "0"))
    seed = random.SystemRandom().getrandbits(32)
    done, first, slowest = fuzz(math.inf, wanted, seed) if wanted else fuzz(5.0, math.inf, seed)
    print(f"{done} inputs, seed {seed}: at most {slowest * 1000:.3f} ms each, {first * 1000:.3f} ms at first")
    assert done > 10_000
    assert slowest < 0.001
