"""The client as transcripts, once it has an address: kept, lost, had again after a restart, given back."""

from __future__ import annotations

import math
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface
from itertools import pairwise

import pytest

from terwayd.dhcp.client import Client
from terwayd.dhcp.frame import BROADCAST_MAC
from terwayd.dhcp.messages import Outgoing
from terwayd.dhcp.options import Code, Kind
from terwayd.dhcp.outcome import Bound, Lost, NoAnswer, Renewed
from terwayd.dhcp.table import State
from tests.core.dhcp import (
    EVERYBODY,
    IP,
    NOBODY,
    OTHER,
    OTHER_MAC,
    SERVER,
    SERVER_MAC,
    a_lease,
    bound,
    client,
    kinds,
    reply,
    sent,
    state,
)

# Keeping it


def test_renewal() -> None:
    it, lease = bound()
    assert it.deadline() == 300
    it.tick(300)
    assert state(it) is State.RENEWING
    renew = sent(it)
    assert renew == Outgoing(renew.message, SERVER_MAC, IP, SERVER)
    assert (renew.message.kind, renew.message.ciaddr) == (Kind.REQUEST, IP)
    assert {Code.REQUESTED_ADDRESS, Code.SERVER_ID}.isdisjoint(renew.message.options)
    assert renew.message.options[Code.CLIENT_ID] == b"\x00pod"
    it.receive(reply(renew.message, Kind.ACK), SERVER_MAC, 301)
    assert state(it) is State.BOUND
    assert it.lease is not None
    assert it.lease.expires_at == 900
    assert it.events() == [Renewed(it.lease, lease)]
    assert it.deadline() == 600


def test_renewal_by_hand() -> None:
    it, lease = bound()
    it.renew(7)
    first = sent(it)
    assert (state(it), first.message.kind, first.dst_ip) == (State.RENEWING, Kind.REQUEST, SERVER)
    it.renew(8)  # it goes on with the transaction
    assert sent(it).message.xid == first.message.xid
    it.receive(reply(first.message, Kind.ACK), SERVER_MAC, 8)
    assert it.lease is not None
    assert it.lease.expires_at == 608
    assert it.events() == [Renewed(it.lease, lease)]


def test_a_renewed_address_may_differ() -> None:
    it, lease = bound()
    it.tick(300)
    it.receive(reply(sent(it).message, Kind.ACK, ip=IPv4Address("192.0.2.58")), SERVER_MAC, 301)
    assert it.lease is not None
    assert it.lease.address == IPv4Interface("192.0.2.58/24")
    assert it.events() == [Renewed(it.lease, lease)]


def test_retries_of_a_long_lease_are_those_of_the_rfc() -> None:
    it, _ = bound(86400)
    times = []
    while state(it) is not State.INIT:
        times.append(it.deadline())
        it.tick(it.deadline())
        if state(it) is State.SELECTING:
            break
    steps = [b - a for a, b in pairwise(times)]
    assert times[0] == 43200
    assert 75600 in times
    assert times[-1] == 86400
    # No step is below a minute, except the last before T2 and before the end.
    assert all(step >= 60 for step, end in zip(steps, times[1:], strict=False) if end not in (75600, 86400))
    assert len(times) < 30


def test_rebinding_is_broadcast_and_any_server_may_answer() -> None:
    it, lease = bound()
    it.tick(300)
    renew = sent(it).message
    it.tick(525)
    assert state(it) is State.REBINDING
    rebind = sent(it)
    assert rebind == Outgoing(rebind.message, BROADCAST_MAC, IP, EVERYBODY)
    assert (rebind.message.kind, rebind.message.ciaddr) == (Kind.REQUEST, IP)
    assert {Code.REQUESTED_ADDRESS, Code.SERVER_ID}.isdisjoint(rebind.message.options)
    assert rebind.message.xid == renew.xid
    assert rebind.message.secs == 225
    assert it.events() == [
        NoAnswer(
            State.RENEWING, "1 REQUEST for 192.0.2.57 of server 192.0.2.1 sent in 225 s, no ACK came back"
        )
    ]
    it.receive(reply(rebind.message, Kind.ACK, server=OTHER), OTHER_MAC, 526)
    assert it.lease is not None
    assert (it.lease.server, it.lease.server_mac) == (OTHER, OTHER_MAC)
    assert it.events() == [Renewed(it.lease, lease)]


def test_another_server_has_no_say_in_a_renewal() -> None:
    it, lease = bound()
    it.tick(300)
    renew = sent(it).message
    for kind in (Kind.ACK, Kind.NAK):
        it.receive(reply(renew, kind, server=OTHER), OTHER_MAC, 301)
    assert (state(it), it.lease, it.events()) == (State.RENEWING, lease, [])


@pytest.mark.parametrize(("at", "then"), [(300, State.RENEWING), (525, State.REBINDING)])
def test_a_nak_ends_the_lease_at_once(at: float, then: State) -> None:
    it, lease = bound()
    it.tick(at)
    assert state(it) is then
    nak = reply(sent(it).message, Kind.NAK, more={Code.MESSAGE: b"wrong network"})
    it.receive(nak, SERVER_MAC, at + 1)
    assert [event for event in it.events() if isinstance(event, Lost)] == [
        Lost("192.0.2.57 is lost: the server refused it (wrong network)", lease)
    ]
    assert (state(it), it.lease) == (State.SELECTING, None)
    discover = sent(it).message
    assert discover.kind is Kind.DISCOVER
    assert Code.REQUESTED_ADDRESS not in discover.options  # not that one again


def test_an_ended_lease_is_lost_and_asked_for_again() -> None:
    it, lease = bound()
    for at in (300, 525):
        it.tick(at)
    it.outbox()
    it.events()
    it.tick(600)
    assert it.events() == [Lost("192.0.2.57 is lost: the lease ended and no server extended it", lease)]
    discover = sent(it).message
    assert (discover.kind, discover.options[Code.REQUESTED_ADDRESS]) == (Kind.DISCOVER, IP.packed)
    it.receive(reply(discover, Kind.OFFER), SERVER_MAC, 600)
    it.receive(reply(sent(it).message, Kind.ACK), SERVER_MAC, 600)
    assert kinds(it.events()) == [Bound]


def test_an_ack_after_the_end_is_too_late() -> None:
    it, _ = bound()
    it.tick(300)
    renew = sent(it).message
    it.receive(reply(renew, Kind.ACK), SERVER_MAC, 600)
    assert state(it) is State.SELECTING
    assert kinds(it.events()) == [Lost]


def test_a_machine_that_slept() -> None:
    it, _ = bound()
    it.tick(550)  # past T2 in one step
    assert state(it) is State.REBINDING
    assert sent(it).dst_ip == EVERYBODY
    it, _ = bound()
    it.tick(10_000)
    assert state(it) is State.SELECTING
    assert kinds(it.events()) == [Lost]


def test_a_lease_without_end_sets_no_timer() -> None:
    it, _ = bound(0xFFFFFFFF)
    assert it.deadline() == math.inf
    it.tick(1e12)
    assert state(it) is State.BOUND


@pytest.mark.parametrize("seconds", [1, 10, 60, 120, 3600, 86400, 0x80000000, 0xFFFFFFFE])
def test_every_lease_is_asked_for_more_than_twice_and_not_in_a_flood(seconds: int) -> None:
    it, lease = bound(seconds)
    count = 0
    while it.deadline() < lease.expires_at:
        it.tick(it.deadline())
        count += len(it.outbox())
    assert 3 <= count < 120


# Coming back


def test_a_restored_lease_before_t1_needs_no_packet() -> None:
    lease = a_lease()
    it = client()
    it.start(299, lease)
    assert (state(it), it.lease, it.outbox(), it.events()) == (State.BOUND, lease, [], [])
    assert it.deadline() == 300


def rebooting(now: float = 400.0) -> tuple[Client, Outgoing]:
    it = client()
    it.start(now, a_lease())
    assert (state(it), it.outbox()) == (State.INIT_REBOOT, [])
    it.tick(it.deadline())
    return it, sent(it)


def test_a_restored_lease_past_t1_is_verified() -> None:
    it, verify = rebooting()
    assert state(it) is State.REBOOTING
    assert verify == Outgoing(verify.message, BROADCAST_MAC, NOBODY, EVERYBODY)
    assert (verify.message.kind, verify.message.ciaddr) == (Kind.REQUEST, NOBODY)
    assert verify.message.options[Code.REQUESTED_ADDRESS] == IP.packed
    assert Code.SERVER_ID not in verify.message.options
    it.receive(reply(verify.message, Kind.ACK, server=OTHER), OTHER_MAC, 402)
    assert state(it) is State.BOUND
    assert kinds(it.events()) == [Renewed]


def test_a_restored_lease_that_is_refused() -> None:
    it, verify = rebooting()
    it.receive(reply(verify.message, Kind.NAK), SERVER_MAC, 402)
    assert kinds(it.events()) == [Lost]
    assert it.lease is None
    assert sent(it).message.kind is Kind.DISCOVER


def test_a_restored_lease_is_kept_when_nobody_answers() -> None:
    it, _ = rebooting()
    began = now = it.deadline() - 1
    while state(it) is State.REBOOTING:
        now = it.deadline()
        it.tick(now)
    assert now - began == 7
    assert state(it) is State.RENEWING  # by way of BOUND: T1 has passed
    out = it.outbox()
    assert [m.dst_ip for m in out] == [EVERYBODY, EVERYBODY, SERVER]
    assert kinds(it.events()) == [NoAnswer]
    assert it.lease is not None


def test_a_restored_lease_that_has_ended() -> None:
    it = client()
    lease = a_lease()
    it.start(600, lease)
    assert it.events() == [Lost("192.0.2.57 is lost: the lease ended and no server extended it", lease)]
    assert sent(it).message.options[Code.REQUESTED_ADDRESS] == IP.packed


def test_a_lease_of_unknown_server_mac_is_renewed_over_the_broadcast_address() -> None:
    it = client()
    it.start(0, replace(a_lease(), server_mac=b""))
    it.tick(300)
    out = sent(it)
    assert (out.dst_mac, out.dst_ip) == (BROADCAST_MAC, SERVER)


# Giving it back


@pytest.mark.parametrize("at", [0, 300, 525])
def test_release(at: float) -> None:
    it, _ = bound()
    it.tick(at)
    it.outbox()
    it.release(at)
    out = sent(it)
    assert out == Outgoing(out.message, SERVER_MAC, IP, SERVER)
    assert (out.message.kind, out.message.ciaddr) == (Kind.RELEASE, IP)
    assert out.message.options[Code.SERVER_ID] == SERVER.packed
    assert out.message.options[Code.CLIENT_ID] == b"\x00pod"
    assert {Code.REQUESTED_ADDRESS, Code.PARAMETERS}.isdisjoint(out.message.options)
    assert (state(it), it.lease, it.deadline()) == (State.RELEASED, None, math.inf)
    it.release(at)
    it.tick(1e9)
    assert it.outbox() == []


def test_release_without_a_lease_sends_nothing() -> None:
    it = client()
    it.start(0)
    it.outbox()
    it.release(0)
    assert (state(it), it.outbox()) == (State.RELEASED, [])


def test_release_while_the_ack_is_on_its_way() -> None:
    it = client()
    it.start(0)
    it.receive(reply(sent(it).message, Kind.OFFER), SERVER_MAC, 0)
    it.outbox()
    it.release(0.1)
    assert sent(it).message.ciaddr == IP


def test_a_client_is_started_once() -> None:
    it, lease = bound()
    with pytest.raises(RuntimeError):
        it.start(0, lease)
