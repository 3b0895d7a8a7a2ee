"""Asking the LAN: DHCP servers, gateways, who else has our addresses.  Takes no lease, changes nothing.

DHCP is asked by the daemon, over its own packet socket.  Without one it is asked from here: then no
other DHCP client is at work on the NIC.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from ipaddress import IPv4Address

from terwayd.clock import boottime
from terwayd.dhcp.engine import Engine
from terwayd.dhcp.survey import Offer
from terwayd.doctor.facts import Facts, Gateway, Live
from terwayd.kernel import probe
from terwayd.kernel.packet import PacketTransport, promiscuous

ANSWER_S = 1.0
SURVEY_S = 5.0

Survey = Callable[[str, bool, bool], tuple[Offer, ...]]
"""MAC address, whether by broadcast, whether the first OFFER will do."""


def ask(
    facts: Facts, addresses: Iterable[IPv4Address], survey: Survey | None, *, dhcp: bool = True
) -> Live | None:
    """What the LAN answers; `addresses` are the pods', `survey` the daemon's.  None without an uplink."""
    if facts.uplink is None:
        return None
    dev, mac = facts.uplink.name, facts.uplink.mac
    own = [
        address.interface.ip
        for name in {dev, facts.config.host.bridge}
        for address in facts.host.addresses_of(name)
        if isinstance(address.interface.ip, IPv4Address)
    ]
    foreign = foreign_mac(mac)
    asks = survey or (lambda source, broadcast, first: _survey(dev, source, broadcast, first))
    with ExitStack() as stack:
        stack.enter_context(promiscuous(dev))
        pool = stack.enter_context(ThreadPoolExecutor())
        answers = [
            pool.submit(asks, *question) if dhcp else pool.submit(tuple)
            for question in ((mac, False, False), (foreign, False, True), (foreign, True, True))
        ]
        claimed = pool.submit(probe.claimants, dev, mac, {*own, *addresses}, ANSWER_S)
        gateways = [pool.submit(_gateway, facts, each, own, foreign) for each in _gateways(facts)]
        return Live(
            own=answers[0].result(),
            foreign=answers[1].result(),
            broadcast=answers[2].result(),
            foreign_mac=foreign,
            gateways=tuple(gateway.result() for gateway in gateways),
            claimed={str(address): by for address, by in claimed.result().items()},
        )


def foreign_mac(mac: str) -> str:
    """A MAC address that is nobody's, always the same for a NIC: a server's range is not used up by it."""
    return (b"\x02" + hashlib.sha256(f"doctor {mac}".encode()).digest()[:5]).hex(":")


def _gateways(facts: Facts) -> list[IPv4Address]:
    devs = [facts.config.host.bridge, *([facts.uplink.name] if facts.uplink is not None else [])]
    found = dict.fromkeys(gateway for dev in devs for gateway in facts.host.gateways_of(dev))
    return [gateway for gateway in found if isinstance(gateway, IPv4Address)]


def _gateway(facts: Facts, address: IPv4Address, own: list[IPv4Address], foreign: str) -> Gateway:
    assert facts.uplink is not None
    dev, link = facts.uplink.name, facts.bridge or facts.uplink
    source = own[0] if own else IPv4Address(0)
    answers = probe.arp(dev, facts.uplink.mac, source, address, ANSWER_S)
    answers_foreign = probe.arp(dev, foreign, IPv4Address(0), address, ANSWER_S)
    mtu = probe.path_mtu(address, link.mtu, ANSWER_S) if answers else None
    return Gateway(address, answers, answers_foreign, mtu)


def _survey(dev: str, mac: str, broadcast: bool, first: bool) -> tuple[Offer, ...]:
    """The same as the daemon does, with a packet socket of its own."""

    async def run() -> tuple[Offer, ...]:
        transport = PacketTransport(dev, asyncio.get_running_loop())
        engine = Engine(transport, clock=boottime, rng=random.Random(), on_event=lambda _key, _event: None)
        try:
            source = bytes.fromhex(mac.replace(":", ""))
            return await engine.survey(source, within=SURVEY_S, broadcast=broadcast, first=first)
        finally:
            engine.close()

    return asyncio.run(run())
