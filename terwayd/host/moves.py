"""The steps by which addresses, neighbours, rules and routes move.  They are steps as in `steps`."""

from __future__ import annotations

from dataclasses import dataclass

from terwayd.host.words import (
    address_words,
    interface_words,
    ip_word,
    neighbour_words,
    route_words,
    rule_words,
)
from terwayd.model import Address, Neighbour, Route, Rule


@dataclass(frozen=True, slots=True)
class AddAddress:
    """An address, usable at once: an IPv6 address is added without duplicate address detection."""

    address: Address

    def __str__(self) -> str:
        return f"ip addr add {address_words(self.address)}"

    def inverse(self) -> DelAddress:
        return DelAddress(self.address)


@dataclass(frozen=True, slots=True)
class DelAddress:
    address: Address

    def __str__(self) -> str:
        return f"ip addr del {interface_words(self.address)} dev {self.address.dev}"

    def inverse(self) -> AddAddress:
        return AddAddress(self.address)


@dataclass(frozen=True, slots=True)
class AddNeighbour:
    """What the host knew of its neighbours, so that no packet waits for an ARP answer."""

    neighbour: Neighbour

    def __str__(self) -> str:
        return neighbour_words(self.neighbour)

    def inverse(self) -> None:
        return None


@dataclass(frozen=True, slots=True)
class AddRule:
    """A rule that names the bridge as another names the NIC, which stays."""

    rule: Rule

    def __str__(self) -> str:
        return f"ip{' -6' if self.rule.version == 6 else ''} rule add {rule_words(self.rule)}"

    def inverse(self) -> DelRule:
        return DelRule(self.rule)


@dataclass(frozen=True, slots=True)
class DelRule:
    rule: Rule

    def __str__(self) -> str:
        return f"ip{' -6' if self.rule.version == 6 else ''} rule del {rule_words(self.rule)}"

    def inverse(self) -> AddRule:
        return AddRule(self.rule)


@dataclass(frozen=True, slots=True)
class AddRoute:
    """A route put in front of one with the same destination and metric: it wins from that moment on."""

    route: Route

    def __str__(self) -> str:
        return f"{ip_word(self.route)} route prepend {route_words(self.route)}"

    def inverse(self) -> DelRoute:
        return DelRoute(self.route)


@dataclass(frozen=True, slots=True)
class DelRoute:
    route: Route

    def __str__(self) -> str:
        return f"{ip_word(self.route)} route del {route_words(self.route)}"

    def inverse(self) -> AddRoute:
        return AddRoute(self.route)
