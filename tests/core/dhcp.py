"""A LAN's DHCP server in a few lines, and a client to answer: what the tests of the DHCP modules share."""

from __future__ import annotations

import random
from ipaddress import IPv4Address

from terwayd.dhcp import frame
from terwayd.dhcp.client import Client
from terwayd.dhcp.lease import Lease
from terwayd.dhcp.messages import Identity, Outgoing
from terwayd.dhcp.options import Code, Kind
from terwayd.dhcp.outcome import Bound, Event
from terwayd.dhcp.packet import Message
from terwayd.dhcp.table import State

MAC = bytes.fromhex("02aa00000001")
SERVER, SERVER_MAC = IPv4Address("192.0.2.1"), bytes.fromhex("02cc00000001")
OTHER, OTHER_MAC = IPv4Address("192.0.2.2"), bytes.fromhex("02cc00000002")
IP = IPv4Address("192.0.2.57")
NOBODY, EVERYBODY = IPv4Address("0.0.0.0"), IPv4Address("255.255.255.255")
POD = Identity(MAC, b"\x00pod", "pod", "terwayd")


class Middle(random.Random):
    """No jitter: always the middle of a range, and T1 and T2 as they are."""

    def uniform(self, a: float, b: float) -> float:
        return (a + b) / 2

    def random(self) -> float:
        return 0.0


def client(identity: Identity = POD, *, rapid_commit: bool = False) -> Client:
    return Client(identity, Middle(1), rapid_commit=rapid_commit)


def sent(it: Client) -> Outgoing:
    """The one message that the client has just sent."""
    out = it.outbox()
    assert len(out) == 1, out
    return out[0]


def reply(
    to: Message,
    kind: Kind,
    *,
    ip: IPv4Address = IP,
    server: IPv4Address = SERVER,
    seconds: int = 600,
    more: dict[int, bytes | None] | None = None,
) -> Message:
    options: dict[int, bytes | None] = {
        Code.MESSAGE_TYPE: bytes((kind,)),
        Code.SERVER_ID: server.packed,
        Code.CLIENT_ID: to.options.get(Code.CLIENT_ID),
    }
    if kind is not Kind.NAK:
        options |= {Code.LEASE_TIME: seconds.to_bytes(4, "big"), Code.SUBNET_MASK: b"\xff\xff\xff\0"}
    options |= more or {}
    return Message(
        op=2,
        xid=to.xid,
        chaddr=to.chaddr,
        yiaddr=NOBODY if kind is Kind.NAK else ip,
        options={code: raw for code, raw in options.items() if raw is not None},
    )


def ack(more: dict[int, bytes | None] | None = None, kind: Kind = Kind.ACK, seconds: int = 600) -> Message:
    """Of transaction 7."""
    return reply(Message(1, 7, MAC), kind, seconds=seconds, more=more)


def bound(seconds: int = 600, now: float = 0.0) -> tuple[Client, Lease]:
    it = client()
    it.start(now)
    it.receive(reply(sent(it).message, Kind.OFFER, seconds=seconds), SERVER_MAC, now)
    it.receive(reply(sent(it).message, Kind.ACK, seconds=seconds), SERVER_MAC, now)
    assert it.lease is not None
    assert it.events() == [Bound(it.lease)]
    assert it.outbox() == []
    return it, it.lease


def a_lease() -> Lease:
    return bound()[1]


def state(it: Client) -> State:
    """The state, read anew: a type checker believes that calls between two looks change nothing."""
    return it.state


def kinds(events: list[Event]) -> list[type[Event]]:
    return [type(event) for event in events]


def framed(payload: bytes, port: int = 68, mac: bytes = MAC, ip: IPv4Address = IP) -> bytes:
    """As the server sends it."""
    return frame.build(
        payload,
        source_mac=SERVER_MAC,
        destination_mac=mac,
        source=SERVER,
        destination=ip,
        source_port=67,
        destination_port=port,
    )


# Of a reply, all that stands before its options.
HEAD = ack().encode()[:240]
