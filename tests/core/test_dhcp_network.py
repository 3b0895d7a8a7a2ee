"""The client and servers on a network that loses, repeats and delays, under a clock of the test's own (hypothesis)."""

# mypy: disable-error-code="misc"
from __future__ import annotations

import heapq
import math
import random
from ipaddress import IPv4Address
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from terwayd.dhcp.client import Client
from terwayd.dhcp.conflict import FAST
from terwayd.dhcp.frame import Arp
from terwayd.dhcp.lease import Lease
from terwayd.dhcp.options import Code, Kind
from terwayd.dhcp.outcome import Bound, Lost, Renewed
from terwayd.dhcp.packet import Message
from terwayd.dhcp.table import State
from tests.core.dhcp import POD, reply

ADDRESSES = [IPv4Address(f"192.0.2.{n}") for n in range(50, 54)]


class Server:
    """What a right server does (RFC 2131 section 4.3), with a memory of which address is whose until when."""

    def __init__(self, ip: str, mac: str, seconds: int) -> None:
        self.ip, self.mac, self.seconds = IPv4Address(ip), bytes.fromhex(mac), seconds
        self.up = True
        self.given: dict[IPv4Address, float] = {}
        self.offered: set[IPv4Address] = set()
        self.taken: set[IPv4Address] = set()  # by others, or moved out of the range

    def free(self, wish: bytes | None) -> IPv4Address | None:
        usable = [ip for ip in ADDRESSES if ip not in self.taken]
        had = [ip for ip in self.given if ip in usable]
        wished = [ip for ip in usable if wish == ip.packed]
        return next(iter([*wished, *had, *usable]), None)

    def answer(self, message: Message, now: float) -> Message | None:
        if not self.up:
            return None
        options, wish = message.options, message.options.get(Code.REQUESTED_ADDRESS)
        if message.kind is Kind.DISCOVER:
            ip = self.free(wish)
            if ip is not None:
                self.offered.add(ip)
            return None if ip is None else self.say(message, Kind.OFFER, ip)
        if message.kind is Kind.RELEASE:
            self.given.pop(message.ciaddr, None)
            return None
        if message.kind is Kind.DECLINE and wish is not None:
            self.taken.add(IPv4Address(wish))
            return None
        if message.kind is not Kind.REQUEST:
            return None
        chosen = options.get(Code.SERVER_ID)
        if chosen is not None and chosen != self.ip.packed:
            return None
        ip = IPv4Address(wish) if wish is not None else message.ciaddr
        if ip in self.taken or ip not in ADDRESSES:
            return self.say(message, Kind.NAK, ip)
        if chosen is not None and ip not in self.offered:
            return None
        if chosen is None and self.given.get(ip, -1.0) < now:
            return None  # RFC 2131 section 4.3.2: of what it does not know a server says nothing
        self.given[ip] = now + self.seconds
        return self.say(message, Kind.ACK, ip)

    def say(self, to: Message, kind: Kind, ip: IPv4Address) -> Message:
        return reply(to, kind, ip=ip, server=self.ip, seconds=self.seconds)


class Network(RuleBasedStateMachine):
    """`in_flight` holds messages both ways with the time they arrive at."""

    @initialize(
        seed=st.integers(0, 2**32), seconds=st.sampled_from([10, 60, 600, 86400]), probing=st.booleans()
    )
    def begin(self, seed: int, seconds: int, probing: bool) -> None:
        self.now, self.rng, self.count = 0.0, random.Random(seed), 0
        self.probing = FAST if probing else None
        self.client = Client(POD, self.rng, probing=self.probing)
        self.servers = [
            Server("192.0.2.1", "02cc00000001", seconds),
            Server("192.0.2.2", "02cc00000002", seconds),
        ]
        self.servers[1].up = False
        self.loss, self.delay, self.repeat = 0.0, 0.0, 0.0
        self.in_flight: list[tuple[float, int, str, Any]] = []
        self.has: Lease | None = None  # what the events say that the pod may use
        self.client.start(0.0)
        self.flush()
        if probing:
            while self.client.state is not State.PROBING:
                self.run_until(min(self.client.deadline(), self.in_flight[0][0]))
            if seed % 2:
                self.somebody_uses_the_address()

    # The network.

    def put(self, where: str, what: Any) -> None:
        for _ in range(1 + (self.rng.random() < self.repeat)):
            if self.rng.random() >= self.loss:
                self.count += 1
                at = self.now + 0.001 + self.rng.uniform(0, self.delay)
                heapq.heappush(self.in_flight, (at, self.count, where, what))

    def flush(self) -> None:
        for out in self.client.outbox():
            for server in self.servers:
                if out.dst_mac in (b"\xff" * 6, server.mac):
                    self.put("server", (server, out.message))
        self.client.frames()
        for event in self.client.events():
            match event:
                case Bound(lease):
                    assert self.has is None, "a second address beside the first"
                    self.has = lease
                case Renewed(lease, previous):
                    assert self.has == previous
                    self.has = lease
                case Lost(_, lease):
                    assert self.has == lease
                    self.has = None
                case _:
                    pass

    def hear(self, server: Server, message: Message) -> None:
        before, held, xid = self.client.state, self.client.lease, self.client.xid
        self.client.receive(message, server.mac, self.now)
        ours = before is not State.RENEWING or (held is not None and held.server == server.ip)
        asking = before in (State.RENEWING, State.REBINDING, State.REBOOTING)
        if message.kind is Kind.NAK and message.xid == xid and asking and ours:
            assert self.client.lease is None, "an address that was refused"

    def run_until(self, end: float) -> None:
        while True:
            at = min(self.client.deadline(), self.in_flight[0][0] if self.in_flight else math.inf)
            if at > end:
                break
            self.now = max(self.now, at)
            if self.in_flight and self.in_flight[0][0] <= self.now:
                _, _, where, what = heapq.heappop(self.in_flight)
                server, message = what
                if where == "server":
                    if (answer := server.answer(message, self.now)) is not None:
                        self.put("client", (server, answer))
                else:
                    self.hear(server, message)
            else:
                self.client.tick(self.now)
            self.flush()
            self.check()
        self.now = max(self.now, end)

    # What happens.

    @rule(seconds=st.floats(0.01, 30.0))
    def a_while(self, seconds: float) -> None:
        self.run_until(self.now + seconds)

    @rule(part=st.floats(0.1, 1.2))
    def a_part_of_the_lease(self, part: float) -> None:
        if self.has is not None:
            self.run_until(self.now + (self.has.expires_at - self.has.acquired) * part)

    @rule(
        loss=st.sampled_from([0.0, 0.3, 0.9, 1.0]),
        delay=st.sampled_from([0.0, 0.5, 6.0]),
        repeat=st.sampled_from([0.0, 0.5]),
    )
    def the_network_changes(self, loss: float, delay: float, repeat: float) -> None:
        self.loss, self.delay, self.repeat = loss, delay, repeat

    @rule(which=st.integers(0, 1))
    def a_server_goes_or_comes(self, which: int) -> None:
        self.servers[which].up = not self.servers[which].up

    @rule(which=st.integers(0, 1))
    def a_server_forgets(self, which: int) -> None:
        self.servers[which].given.clear()
        self.servers[which].offered.clear()

    @rule(address=st.sampled_from([*ADDRESSES, None, None, None]), which=st.integers(0, 1))
    def an_address_leaves_the_range_or_returns(self, address: IPv4Address | None, which: int) -> None:
        address = address or (self.has.address.ip if self.has is not None else ADDRESSES[0])
        self.servers[which].taken ^= {address}

    @rule()
    def somebody_uses_the_address(self) -> None:
        if self.client.claimed is not None:
            probing = self.client.state is State.PROBING
            self.client.heard(Arp(b"\x02" * 6, self.client.claimed, IPv4Address(0)), self.now)
            assert not probing or (self.client.state is State.INIT and self.client.lease is None)
            self.flush()

    @precondition(lambda self: self.has is not None)
    @rule(gap=st.floats(0.0, 100.0))
    def the_daemon_starts_again(self, gap: float) -> None:
        self.run_until(self.now)
        self.now += gap
        self.client = Client(POD, self.rng, probing=self.probing)
        self.client.start(self.now, lease=self.has)
        self.flush()

    @rule()
    def the_network_heals(self) -> None:
        """However bad it was: an address, within two minutes and the longest pause after NAKs."""
        self.loss = self.delay = self.repeat = 0.0
        for server in self.servers:
            server.up = True
            server.taken.clear()
        self.run_until(self.now + 200.0)
        if self.has is None:  # a server that forgot the lease says nothing: it may have ended just now
            self.run_until(self.now + 30.0)
        if self.client.state not in (State.RENEWING, State.REBINDING):  # these hold their lease still
            assert self.client.state is State.BOUND, self.client.journal.summary(self.now)
        assert self.has is not None

    # What must hold at any time.

    @invariant()
    def check(self) -> None:
        if not hasattr(self, "client"):
            return
        assert self.has == self.client.lease, "what was told is what is held"
        if self.has is not None:
            assert self.now <= self.has.expires_at or self.client.deadline() <= self.now, "beyond the lease"
        assert self.client.state is State.BOUND or self.client.deadline() < float("inf"), "nothing to wake it"


Network.TestCase.settings = settings(
    max_examples=100, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
test_network = Network.TestCase


def test_a_server_that_is_away_for_ten_minutes_in_mid_lease() -> None:
    for away in (850.0, 1000.0, 1190.0):
        net = Network()
        net.begin(seed=int(away), seconds=1800, probing=False)
        net.run_until(10.0)
        lease = net.has
        assert lease is not None
        net.run_until(away)
        held = net.has
        net.servers[0].up = False
        net.run_until(away + 600.0)
        assert net.has == held, "the lease has not ended"
        net.servers[0].up = True
        net.run_until(away + 600.0 + 400.0)
        assert net.client.state is State.BOUND
        assert net.has is not None
        assert net.has.address == lease.address
        assert net.has.acquired > away + 600.0


def test_a_clock_that_jumps_over_the_end_of_the_lease() -> None:
    """A machine that slept: the lease is over, and said to be, before anything else."""
    net = Network()
    net.begin(seed=2, seconds=600, probing=False)
    net.run_until(1.0)
    assert held(net) is not None
    net.servers[0].up = False
    net.now += 100_000.0
    net.client.tick(net.now)
    net.flush()
    assert held(net) is None
    net.servers[0].up = True
    net.run_until(net.now + 10.0)
    assert held(net) is not None


def held(net: Network) -> Lease | None:
    """What the pod may use, read anew: a type checker believes that calls between two looks change nothing."""
    return net.has
