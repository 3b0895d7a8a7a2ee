"""The client as transcripts: what it is told, what it sends, what it reports, and when it must be woken."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface
from itertools import pairwise

import pytest

from terwayd.dhcp.client import (
    Bound,
    Client,
    Event,
    Identity,
    Lost,
    NoAnswer,
    Outgoing,
    Renewed,
    State,
)
from terwayd.dhcp.frame import BROADCAST_MAC
from terwayd.dhcp.lease import Lease
from terwayd.dhcp.options import Code, Kind
from terwayd.dhcp.packet import Message
from terwayd.dhcp.table import TABLE, Do, Input

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


# The table


TIMERS = {Input.T1, Input.T2, Input.EXPIRED, Input.RESEND, Input.WAITED, Input.EXHAUSTED}


def test_the_table_is_whole() -> None:
    assert set(TABLE) == set(State)
    reached = {go.to for row in TABLE.values() for go in row.values()} | {State.INIT}
    assert reached == set(State)
    assert {do for row in TABLE.values() for go in row.values() for do in go.do} == set(Do)
    assert {what for row in TABLE.values() for what in row} == set(Input)


def test_every_state_has_a_way_out_by_time_alone() -> None:
    for state_, row in TABLE.items():
        assert state_ is State.RELEASED or TIMERS & set(row), state_


def test_a_lease_never_outlives_its_end() -> None:
    for holding in (State.BOUND, State.RENEWING, State.REBINDING, State.INIT_REBOOT, State.REBOOTING):
        assert TABLE[holding][Input.EXPIRED].to is State.INIT
        assert Do.LOSE in TABLE[holding][Input.EXPIRED].do
        assert Do.RELEASE in TABLE[holding][Input.RELEASE].do


@pytest.mark.parametrize("kind", list(Kind))
def test_a_client_that_asked_nothing_hears_no_answer(kind: Kind) -> None:
    it, lease = bound()
    answer = reply(Message(op=1, xid=it.xid, chaddr=MAC), kind)
    it.receive(answer, SERVER_MAC, 1.0)
    assert (state(it), it.lease, it.outbox(), it.events()) == (State.BOUND, lease, [], [])
    it.release(2.0)
    it.outbox()
    it.receive(answer, SERVER_MAC, 3.0)
    assert (state(it), it.lease, it.outbox(), it.events()) == (State.RELEASED, None, [], [])


def test_an_answer_that_is_late_wins_over_the_timer() -> None:
    it = client()
    it.start(0)
    it.receive(reply(sent(it).message, Kind.OFFER), SERVER_MAC, 60)
    assert sent(it).message.kind is Kind.REQUEST  # and no second DISCOVER


# Getting an address


def test_four_messages() -> None:
    it = client()
    it.start(1000.0)
    assert state(it) is State.SELECTING
    discover = sent(it)
    assert discover == Outgoing(discover.message, BROADCAST_MAC, NOBODY, EVERYBODY)
    assert discover.message.kind is Kind.DISCOVER
    assert (discover.message.op, discover.message.chaddr, discover.message.ciaddr) == (1, MAC, NOBODY)
    assert discover.message.options[Code.CLIENT_ID] == b"\x00pod"
    assert discover.message.options[Code.HOSTNAME] == b"pod"
    assert discover.message.options[Code.VENDOR_CLASS] == b"terwayd"
    assert {Code.REQUESTED_ADDRESS, Code.SERVER_ID, Code.RAPID_COMMIT}.isdisjoint(discover.message.options)
    wanted = discover.message.options[Code.PARAMETERS]
    assert wanted.index(Code.CLASSLESS_ROUTES) < wanted.index(Code.ROUTER) < wanted.index(Code.STATIC_ROUTES)

    it.receive(reply(discover.message, Kind.OFFER), SERVER_MAC, 1000.5)
    assert state(it) is State.REQUESTING
    request = sent(it)
    assert request == Outgoing(request.message, BROADCAST_MAC, NOBODY, EVERYBODY)
    assert request.message.kind is Kind.REQUEST
    assert (request.message.xid, request.message.secs) == (discover.message.xid, discover.message.secs)
    assert request.message.options[Code.REQUESTED_ADDRESS] == IP.packed
    assert request.message.options[Code.SERVER_ID] == SERVER.packed
    assert request.message.options[Code.CLIENT_ID] == b"\x00pod"

    it.receive(reply(request.message, Kind.ACK), SERVER_MAC, 1001.5)
    assert state(it) is State.BOUND
    assert it.lease is not None
    assert it.lease.address == IPv4Interface("192.0.2.57/24")
    assert it.lease.server_mac == SERVER_MAC
    assert it.lease.acquired == 1000.5  # when the REQUEST went out
    assert it.events() == [Bound(it.lease)]
    assert it.outbox() == []
    assert it.deadline() == 1300.5


def test_the_wanted_address_is_asked_for() -> None:
    it = client()
    it.start(0, requested=IP)
    assert sent(it).message.options[Code.REQUESTED_ADDRESS] == IP.packed


def test_no_options_that_were_not_given() -> None:
    it = client(Identity(MAC))
    it.start(0)
    assert {Code.CLIENT_ID, Code.HOSTNAME, Code.VENDOR_CLASS}.isdisjoint(sent(it).message.options)


def test_discovers_go_on_for_ever() -> None:
    it = client()
    it.start(0)
    xid = sent(it).message.xid
    times, secs = [], []
    for _ in range(9):
        times.append(it.deadline())
        it.tick(it.deadline())
        message = sent(it).message
        secs.append(message.secs)
        assert message.xid == xid
    assert times == [1, 3, 7, 15, 31, 63, 127, 191, 255]
    assert secs == times
    events = it.events()
    assert kinds(events) == [NoAnswer] * 3
    assert events[0] == NoAnswer(State.SELECTING, "7 DISCOVERs sent in 127 s, no OFFER came back")


def test_jitter_stays_within_its_bounds() -> None:
    it = Client(POD, random.Random(7))
    it.start(0)
    last, expected = 0.0, (1, 2, 4, 8, 16, 32, 64, 64)
    for base in expected:
        wait = it.deadline() - last
        assert abs(wait - base) <= min(1, base / 4)
        assert wait != base
        last = it.deadline()
        it.tick(last)


def test_secs_does_not_overflow() -> None:
    it = client()
    it.start(0)
    it.outbox()
    it.tick(100_000)
    assert sent(it).message.secs == 65535
    it.outbox()


def test_a_tick_too_early_does_nothing() -> None:
    it = client()
    it.start(0)
    it.outbox()
    for now in (0.0, 0.5, 0.999):
        it.tick(now)
    assert it.outbox() == []


def test_requests_are_bounded() -> None:
    it = client()
    it.start(0)
    first = sent(it).message
    it.receive(reply(first, Kind.OFFER), SERVER_MAC, 0.2)
    requests = [sent(it).message]
    while state(it) is State.REQUESTING:
        it.tick(it.deadline())
        requests.append(sent(it).message)
    again = requests.pop()
    assert [message.kind for message in requests] == [Kind.REQUEST] * 4
    assert {message.xid for message in requests} == {first.xid}
    assert {message.secs for message in requests} == {first.secs}
    assert (again.kind, again.secs) == (Kind.DISCOVER, 0)
    assert again.xid != first.xid
    assert it.events() == [
        NoAnswer(
            State.REQUESTING,
            "1 DISCOVER sent in 15 s, 1 OFFER came back; "
            "4 REQUESTs for 192.0.2.57 of server 192.0.2.1 sent, no ACK came back",
        )
    ]


def test_the_first_good_offer_is_taken() -> None:
    it = client()
    it.start(0)
    discover = sent(it).message
    it.receive(reply(discover, Kind.OFFER, ip=IPv4Address("127.0.0.1")), OTHER_MAC, 0.1)
    it.receive(reply(discover, Kind.OFFER, more={Code.SERVER_ID: None}), OTHER_MAC, 0.1)
    assert (state(it), it.outbox()) == (State.SELECTING, [])
    assert it.summary(2) == (
        "1 DISCOVER sent in 2 s, 2 OFFERs came back; the OFFER cannot be used, it names no server (option 54)"
    )
    it.receive(reply(discover, Kind.OFFER, server=OTHER), OTHER_MAC, 0.2)
    assert sent(it).message.options[Code.SERVER_ID] == OTHER.packed
    it.receive(reply(discover, Kind.OFFER), SERVER_MAC, 0.2)
    assert it.outbox() == []


def test_the_server_that_has_the_wanted_address_is_waited_for() -> None:
    """RFC 2131 section 4.4.1 leaves the choice to the client: where a pod comes back, it is its address that counts."""
    first = IPv4Address("192.0.2.59")
    for late, wanted in ((True, IP), (False, first)):
        it = client()
        it.start(0.0, requested=IP)
        discover = sent(it).message
        it.receive(reply(discover, Kind.OFFER, ip=first, server=OTHER), OTHER_MAC, 1.0)
        it.receive(reply(discover, Kind.OFFER, ip=IPv4Address("192.0.2.58"), server=OTHER), OTHER_MAC, 1.0)
        assert it.outbox() == []
        assert it.deadline() == 1.25
        if late:
            it.receive(reply(discover, Kind.OFFER), SERVER_MAC, 1.2)
        it.tick(1.25)
        assert sent(it).message.options[Code.REQUESTED_ADDRESS] == wanted.packed
    it = client()
    it.start(0.0)
    it.receive(reply(sent(it).message, Kind.OFFER), SERVER_MAC, 0.1)
    assert it.state is State.REQUESTING, "who wants no address in particular does not wait"


def test_what_was_not_taken_is_told() -> None:
    it = Client(POD, Middle(1), servers=(SERVER,))
    it.start(0.0)
    discover = sent(it).message
    for _ in range(3):
        it.receive(reply(discover, Kind.OFFER, server=OTHER), OTHER_MAC, 1.0)
    it.receive(reply(discover, Kind.OFFER, more={Code.CLIENT_ID: b"\0other"}), SERVER_MAC, 1.0)
    assert it.summary(2.0) == (
        "1 DISCOVER sent in 2 s, no OFFER came back; not taken: 3 OFFERs of 192.0.2.2: dhcp.servers does not"
        " name it; not taken: 1 OFFER of 192.0.2.1: it is for another client identifier"
    )
    assert not it.silent
    for n in range(100):  # a flood of them is no long text
        it.receive(reply(discover, Kind.OFFER, server=IPv4Address(f"192.0.3.{n}")), OTHER_MAC, 1.0)
    assert len(it.summary(2.0)) < 500


def test_the_name_goes_in_one_option() -> None:
    """RFC 4702 section 3: option 12 or option 81, never both."""
    it = client(replace(POD, fqdn=True, request=(66, Code.DNS)))
    it.start(0.0)
    options = sent(it).message.options
    assert options[Code.FQDN] == b"\x05\0\0\x03pod"
    assert Code.HOSTNAME not in options
    assert options[Code.PARAMETERS][-1] == 66
    assert options[Code.PARAMETERS].count(bytes((Code.DNS,))) == 1


def test_restored_clients_do_not_ask_all_at_once() -> None:
    now, waits = a_lease().renew_at + 1, []
    for seed in range(200):
        it = Client(POD, random.Random(seed))
        it.start(now, lease=a_lease(), spread=20.0)
        waits.append(it.deadline() - now)
    assert 18.0 < max(waits) <= 20.0
    assert min(waits) < 2.0


@pytest.mark.parametrize("kind", [Kind.ACK, Kind.NAK])
def test_another_server_has_no_say_in_a_request(kind: Kind) -> None:
    it = client()
    it.start(0)
    it.receive(reply(sent(it).message, Kind.OFFER), SERVER_MAC, 0.1)
    request = sent(it).message
    it.receive(reply(request, kind, server=OTHER), OTHER_MAC, 0.2)
    it.receive(reply(request, kind, more={Code.SERVER_ID: None}), OTHER_MAC, 0.2)
    assert (state(it), it.lease, it.outbox()) == (State.REQUESTING, None, [])


def test_messages_for_others_are_dropped() -> None:
    it = client()
    it.start(0)
    offer = reply(sent(it).message, Kind.OFFER)
    for wrong in (
        replace(offer, xid=offer.xid ^ 1),
        replace(offer, chaddr=b"\2\0\0\0\0\x99"),
        replace(offer, op=1),
        replace(offer, options={**offer.options, Code.CLIENT_ID: b"\x00other"}),
        replace(offer, options={**offer.options, Code.MESSAGE_TYPE: bytes((Kind.FORCERENEW,))}),
        replace(offer, options={**offer.options, Code.MESSAGE_TYPE: b"\x63"}),
        replace(offer, options={}),
    ):
        it.receive(wrong, SERVER_MAC, 0.1)
        assert (state(it), it.outbox()) == (State.SELECTING, [])
    del (options := dict(offer.options))[Code.CLIENT_ID]  # servers before RFC 6842 leave it out
    it.receive(replace(offer, options=options), SERVER_MAC, 0.1)
    assert state(it) is State.REQUESTING


def test_naks_slow_the_client_down() -> None:
    it = client()
    it.start(0)
    now, pauses = 0.0, []
    for _ in range(5):
        it.receive(reply(sent(it).message, Kind.OFFER), SERVER_MAC, now)
        it.receive(reply(sent(it).message, Kind.NAK, more={Code.MESSAGE: b"no\x1bpe"}), SERVER_MAC, now)
        if state(it) is State.INIT:
            pauses.append(it.deadline() - now)
            now = it.deadline()
            it.tick(now)
        else:
            pauses.append(0.0)
    assert pauses == [0, 1, 2, 4, 8]
    assert it.events() == []  # there was no lease to lose
    assert 'NAKs ("no?pe") came back' in it.summary()


def test_rapid_commit_only_when_asked() -> None:
    rapid: dict[int, bytes | None] = {Code.RAPID_COMMIT: b""}
    it = client()
    it.start(0)
    it.receive(reply(sent(it).message, Kind.ACK, more=rapid), SERVER_MAC, 0)
    assert state(it) is State.SELECTING
    it = client(rapid_commit=True)
    it.start(0)
    discover = sent(it).message
    assert discover.options[Code.RAPID_COMMIT] == b""
    it.receive(reply(discover, Kind.ACK), SERVER_MAC, 0)
    assert state(it) is State.SELECTING
    it.receive(reply(discover, Kind.ACK, more=rapid), SERVER_MAC, 0)
    assert state(it) is State.BOUND


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


# Whatever happens


@pytest.mark.parametrize("seed", range(40))
def test_a_lan_that_loses_repeats_and_reorders(seed: int) -> None:
    """A bad LAN for a simulated day: the client never keeps an address beyond its end, and always gets one again."""
    rng = random.Random(seed)
    it = Client(POD, random.Random(seed))
    now, end = 0.0, 86400.0
    flight: list[tuple[float, Message]] = []
    has: Lease | None = None
    total = 0
    it.start(now)
    while now < end:
        for out in it.outbox():
            total += 1
            kind = {Kind.DISCOVER: Kind.OFFER, Kind.REQUEST: rng.choice([Kind.ACK] * 9 + [Kind.NAK])}[
                Kind(out.message.kind or 0)
            ]
            seconds = rng.choice([1, 60, 600, 3600])
            flight += [
                (now + rng.choice([0.01, 0.5, 3.0]), reply(out.message, kind, seconds=seconds))
                for _ in range(rng.choice([0, 1, 1, 1, 2]))
            ]
        for event in it.events():
            match event:
                case Bound(lease):
                    assert has is None
                    has = lease
                case Renewed(lease, previous):
                    assert previous == has
                    has = lease
                case Lost(_, lease):
                    assert lease == has
                    has = None
        assert it.lease == has
        assert has is None or now < has.expires_at
        flight.sort(key=lambda item: item[0])
        if flight and flight[0][0] <= it.deadline():
            now, message = flight.pop(0)
            it.receive(message, SERVER_MAC, now)
        else:
            assert it.deadline() > now
            now = it.deadline()
            it.tick(now)
    assert total < 60_000
