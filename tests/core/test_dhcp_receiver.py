"""Whom a frame is for, by transaction and by claimed address; and that nobody who is gone is called."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from ipaddress import IPv4Address

from terwayd.dhcp import frame, messages
from terwayd.dhcp.frame import Arp
from terwayd.dhcp.messages import Identity
from terwayd.dhcp.options import Kind
from terwayd.dhcp.packet import Message
from terwayd.dhcp.receiver import Receiver
from tests.core.dhcp import IP, SERVER_MAC, framed, reply

OTHER = IPv4Address("192.0.2.99")
MAC = bytes.fromhex("02bb00000001")
ANOTHER = bytes.fromhex("02bb00000002")


class Heard:
    """A receiver, and what it called."""

    def __init__(self) -> None:
        self.receiver = Receiver()
        self.answers: list[Hashable] = []
        self.arps: list[tuple[Hashable, IPv4Address]] = []
        self.receiver.on_answer = self._answer
        self.receiver.on_arp = self._arp

    def _answer(self, key: Hashable, message: Message, source_mac: bytes) -> None:
        assert message.kind is Kind.OFFER
        assert source_mac == SERVER_MAC
        self.answers.append(key)

    def _arp(self, key: Hashable, arp: Arp) -> None:
        self.arps.append((key, arp.sender))

    def take_answers(self) -> list[Hashable]:
        out, self.answers = self.answers, []
        return out


def an_offer(xid: int, mac: bytes = MAC, port: int = 68, op: int = 2) -> bytes:
    asked = messages.discover(Identity(mac), xid, 0, None, rapid_commit=False).message
    return framed(replace(reply(asked, Kind.OFFER), op=op).encode(), port, mac)


def test_an_answer_goes_to_who_asks_now() -> None:
    it = Heard()
    it.receiver.expect(0, 7, MAC)  # a key that is false is a key
    it.receiver.expect("b", 8, ANOTHER)
    it.receiver.receive(an_offer(7), True)
    it.receiver.receive(an_offer(8, ANOTHER), True)
    it.receiver.receive(an_offer(9), True)
    assert it.take_answers() == [0, "b"]
    it.receiver.receive(an_offer(7, ANOTHER), True)
    assert it.take_answers() == [0], "whoever asks is told of an answer to the wrong MAC"
    it.receiver.receive(an_offer(7, port=67), True)
    it.receiver.receive(an_offer(7, op=1), True)
    it.receiver.receive(an_offer(7)[:100], True)
    assert it.take_answers() == []
    assert (it.receiver.asker(7, MAC), it.receiver.asker(7, ANOTHER)) == (0, None)
    it.receiver.expect(0, 10, MAC)
    it.receiver.receive(an_offer(7), True)
    it.receiver.receive(an_offer(10), True)
    assert it.take_answers() == [0]
    it.receiver.forget(0)
    for xid in (7, 10):
        it.receiver.receive(an_offer(xid), True)
        it.receiver.receive(an_offer(xid, ANOTHER), True)
    assert it.take_answers() == []
    assert it.receiver.asker(10, MAC) is None


def test_of_two_with_one_transaction_each_gets_its_own() -> None:
    it = Heard()
    it.receiver.expect("a", 7, MAC)
    it.receiver.expect("b", 7, ANOTHER)
    it.receiver.receive(an_offer(7), True)
    it.receiver.receive(an_offer(7, ANOTHER), True)
    assert it.take_answers() == ["a", "b"]
    it.receiver.forget("a")
    it.receiver.receive(an_offer(7, ANOTHER), True)
    assert it.take_answers() == ["b"]


def test_an_answer_to_nobodys_question_in_a_listeners_hands() -> None:
    it, heard = Heard(), list[bytes]()
    it.receiver.listen(7, MAC, lambda message, source_mac: heard.append(source_mac))
    it.receiver.receive(an_offer(7), True)
    it.receiver.receive(an_offer(7, ANOTHER), True)
    it.receiver.ignore(7, MAC)
    it.receiver.receive(an_offer(7), True)
    assert heard == [SERVER_MAC]
    assert it.answers == []


def test_arp_goes_to_who_claims_the_address() -> None:
    it = Heard()
    it.receiver.claim("a", IP)
    it.receiver.receive(frame.arp_announcement(ANOTHER, IP), True)
    it.receiver.receive(frame.arp_probe(ANOTHER, IP), True)
    it.receiver.receive(frame.arp_announcement(ANOTHER, OTHER), True)
    it.receiver.receive(frame.arp_announcement(ANOTHER, IP)[:30], True)
    assert it.arps == [("a", IP), ("a", IPv4Address(0))]
    assert (it.receiver.claimant(IP), it.receiver.claimant(OTHER)) == ("a", None)
    it.receiver.claim("b", IP)
    it.receiver.claim("a", None)
    assert it.receiver.claimant(IP) == "b", "who claims it no more takes it from nobody"
    it.receiver.claim("b", OTHER)
    assert (it.receiver.claimant(IP), it.receiver.claimant(OTHER)) == (None, "b")
    it.receiver.forget("b")
    it.receiver.receive(frame.arp_announcement(ANOTHER, OTHER), True)
    assert len(it.arps) == 2
