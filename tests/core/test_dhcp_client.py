"""The client as transcripts, until it has an address: what it is told, what it sends, what it reports, when it must be woken."""

from __future__ import annotations

import random
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface

import pytest

from terwayd.dhcp.client import Client
from terwayd.dhcp.exchange import TRIES
from terwayd.dhcp.frame import BROADCAST_MAC
from terwayd.dhcp.lease import Lease
from terwayd.dhcp.messages import Identity, Outgoing
from terwayd.dhcp.options import Code, Kind
from terwayd.dhcp.outcome import Bound, Lost, NoAnswer, Renewed
from terwayd.dhcp.packet import Message
from terwayd.dhcp.table import TABLE, Do, Input, State
from tests.core.dhcp import (
    EVERYBODY,
    IP,
    MAC,
    NOBODY,
    OTHER,
    OTHER_MAC,
    POD,
    SERVER,
    SERVER_MAC,
    Middle,
    a_lease,
    bound,
    client,
    kinds,
    reply,
    sent,
    state,
)

# The table


TIMERS = {Input.T1, Input.T2, Input.EXPIRED, Input.RESEND, Input.WAITED, Input.EXHAUSTED}


def test_the_table_is_whole() -> None:
    assert set(TABLE) == set(State)
    reached = {go.to for row in TABLE.values() for go in row.values()} | {State.INIT}
    assert reached == set(State)
    assert {do for row in TABLE.values() for go in row.values() for do in go.do} == set(Do)
    assert {what for row in TABLE.values() for what in row} == set(Input)


def test_what_is_exhausted_has_a_bound() -> None:
    assert {state for state, row in TABLE.items() if Input.EXHAUSTED in row} == {*TRIES, State.PROBING}


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
    assert it.journal.summary(2) == (
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
    assert it.journal.summary(2.0) == (
        "1 DISCOVER sent in 2 s, no OFFER came back; not taken: 3 OFFERs of 192.0.2.2: dhcp.servers does not"
        " name it; not taken: 1 OFFER of 192.0.2.1: it is for another client identifier"
    )
    assert not it.journal.silent
    for n in range(100):  # a flood of them is no long text
        it.receive(reply(discover, Kind.OFFER, server=IPv4Address(f"192.0.3.{n}")), OTHER_MAC, 1.0)
    assert len(it.journal.summary(2.0)) < 500


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
    assert 'NAKs ("no?pe") came back' in it.journal.summary()


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
