"""The steps of a takeover: each a value that knows its inverse and prints as the command for it.

A plan is a tuple of steps; a dry run prints them; undoing is the inverses in reverse.  Every step
may be done twice, and undone without having been done: that is what makes a crash anywhere
harmless.  How a step is done is the kernel package's business, or a command of the NIC's manager.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from terwayd.host.commands import RemoveFile, Run, StartClient, StopClient, WriteFile
from terwayd.host.words import (
    address_words,
    interface_words,
    ip_word,
    neighbour_words,
    route_words,
    rule_words,
)
from terwayd.model import Address, Neighbour, Route, Rule

_TABLE = "terwayd"


@dataclass(frozen=True, slots=True)
class AddBridge:
    """A bridge with the NIC's MAC in the creating message, so that nothing rewrites it."""

    name: str
    mac: str
    mtu: int

    def __str__(self) -> str:
        return (
            f"ip link add {self.name} address {self.mac} mtu {self.mtu} type bridge"
            " stp_state 0 forward_delay 0 mcast_snooping 0"
        )

    def inverse(self) -> Step:
        return DelLink(self.name)


@dataclass(frozen=True, slots=True)
class DelLink:
    name: str

    def __str__(self) -> str:
        return f"ip link del {self.name}"

    def inverse(self) -> Step | None:
        return None


@dataclass(frozen=True, slots=True)
class SetUp:
    """`back` is whether it was down before and is to be so again."""

    dev: str
    back: bool = False

    def __str__(self) -> str:
        return f"ip link set {self.dev} up"

    def inverse(self) -> Step | None:
        return SetDown(self.dev) if self.back else None  # the bridge goes with its AddBridge


@dataclass(frozen=True, slots=True)
class SetDown:
    dev: str

    def __str__(self) -> str:
        return f"ip link set {self.dev} down"

    def inverse(self) -> Step:
        return SetUp(self.dev, back=True)


@dataclass(frozen=True, slots=True)
class SetAlias:
    """The mark by which a NIC of ours is known again when nothing else is left."""

    dev: str
    alias: str
    before: str

    def __str__(self) -> str:
        return f"ip link set {self.dev} alias '{self.alias}'"

    def inverse(self) -> Step:
        return SetAlias(self.dev, self.before, self.alias)


@dataclass(frozen=True, slots=True)
class SetMac:
    dev: str
    mac: str
    before: str

    def __str__(self) -> str:
        return f"ip link set {self.dev} address {self.mac}"

    def inverse(self) -> Step:
        return SetMac(self.dev, self.before, self.mac)


@dataclass(frozen=True, slots=True)
class SetMtu:
    dev: str
    mtu: int
    before: int

    def __str__(self) -> str:
        return f"ip link set {self.dev} mtu {self.mtu}"

    def inverse(self) -> Step:
        return SetMtu(self.dev, self.before, self.mtu)


@dataclass(frozen=True, slots=True)
class Enslave:
    dev: str
    bridge: str

    def __str__(self) -> str:
        return f"ip link set {self.dev} master {self.bridge}"

    def inverse(self) -> Step:
        return Release(self.dev, self.bridge)


@dataclass(frozen=True, slots=True)
class Release:
    dev: str
    bridge: str

    def __str__(self) -> str:
        return f"ip link set {self.dev} nomaster"

    def inverse(self) -> Step:
        return Enslave(self.dev, self.bridge)


@dataclass(frozen=True, slots=True)
class AddPort:
    """A port of the bridge for terwayd itself: a veth whose free end is its own."""

    bridge: str
    port: str
    free: str
    mtu: int

    def __str__(self) -> str:
        quiet = [f"sysctl -qw net/ipv6/conf/{name}/disable_ipv6=1" for name in (self.port, self.free)]
        return "; ".join(
            (
                f"ip link add {self.port} mtu {self.mtu} type veth peer name {self.free} mtu {self.mtu}",
                *quiet,
                f"ip link set {self.port} master {self.bridge} up",
                f"bridge link set dev {self.port} learning off isolated on",
                f"ip link set {self.free} up",
            )
        )

    def inverse(self) -> Step:
        return DelLink(self.port)


@dataclass(frozen=True, slots=True)
class Divert:
    """What comes in on the NIC goes to the bridge by terwayd's own port, whose free end is `free`.

    While the kernel makes a NIC a port, and while it makes it none, it drops what comes in there.  Where it
    cannot divert, a packet may be lost in that moment, and that is all.
    """

    dev: str
    bridge: str
    free: str

    @property
    def command(self) -> tuple[str, ...]:
        hook = f"type filter hook ingress device {self.dev} priority -500;"
        return ("nft", f"table netdev {_TABLE} {{ chain divert {{ {hook} fwd to {self.free}; }}; }}")

    def __str__(self) -> str:
        return shlex.join(self.command)

    def inverse(self) -> Step:
        return EndDivert(self.dev, self.bridge, self.free)


@dataclass(frozen=True, slots=True)
class EndDivert:
    dev: str
    bridge: str
    free: str

    @property
    def command(self) -> tuple[str, ...]:
        return ("nft", f"add table netdev {_TABLE}; delete table netdev {_TABLE}")  # gone already is gone

    def __str__(self) -> str:
        return shlex.join(self.command)

    def inverse(self) -> Step:
        return Divert(self.dev, self.bridge, self.free)


@dataclass(frozen=True, slots=True)
class SetSysctl:
    """`key` as under /proc/sys, such as net/ipv6/conf/eth0/accept_ra."""

    key: str
    value: str
    before: str | None = None

    def __str__(self) -> str:
        return f"sysctl -w {self.key}={self.value}"

    def inverse(self) -> Step | None:
        return None if self.before is None else SetSysctl(self.key, self.before, self.value)


@dataclass(frozen=True, slots=True)
class AddAddress:
    """An address, usable at once: an IPv6 address is added without duplicate address detection."""

    address: Address

    def __str__(self) -> str:
        return f"ip addr add {address_words(self.address)}"

    def inverse(self) -> Step:
        return DelAddress(self.address)


@dataclass(frozen=True, slots=True)
class DelAddress:
    address: Address

    def __str__(self) -> str:
        return f"ip addr del {interface_words(self.address)} dev {self.address.dev}"

    def inverse(self) -> Step:
        return AddAddress(self.address)


@dataclass(frozen=True, slots=True)
class AddNeighbour:
    """What the host knew of its neighbours, so that no packet waits for an ARP answer."""

    neighbour: Neighbour

    def __str__(self) -> str:
        return neighbour_words(self.neighbour)

    def inverse(self) -> Step | None:
        return None


@dataclass(frozen=True, slots=True)
class AddRule:
    """A rule that names the bridge as another names the NIC, which stays."""

    rule: Rule

    def __str__(self) -> str:
        return f"ip{' -6' if self.rule.version == 6 else ''} rule add {rule_words(self.rule)}"

    def inverse(self) -> Step:
        return DelRule(self.rule)


@dataclass(frozen=True, slots=True)
class DelRule:
    rule: Rule

    def __str__(self) -> str:
        return f"ip{' -6' if self.rule.version == 6 else ''} rule del {rule_words(self.rule)}"

    def inverse(self) -> Step:
        return AddRule(self.rule)


@dataclass(frozen=True, slots=True)
class AddRoute:
    """A route put in front of one with the same destination and metric: it wins from that moment on."""

    route: Route

    def __str__(self) -> str:
        return f"{ip_word(self.route)} route prepend {route_words(self.route)}"

    def inverse(self) -> Step:
        return DelRoute(self.route)


@dataclass(frozen=True, slots=True)
class DelRoute:
    route: Route

    def __str__(self) -> str:
        return f"{ip_word(self.route)} route del {route_words(self.route)}"

    def inverse(self) -> Step:
        return AddRoute(self.route)


Step = (
    AddBridge
    | DelLink
    | SetUp
    | SetDown
    | SetAlias
    | SetMac
    | SetMtu
    | Enslave
    | Release
    | AddPort
    | Divert
    | EndDivert
    | SetSysctl
    | AddAddress
    | DelAddress
    | AddNeighbour
    | AddRule
    | DelRule
    | AddRoute
    | DelRoute
    | WriteFile
    | RemoveFile
    | Run
    | StopClient
    | StartClient
)


def undo(steps: tuple[Step, ...]) -> tuple[Step, ...]:
    """The steps that lead back: the inverses, last first.

    What is done from the first manager's command on is undone after all else, first first: a manager may
    know of the NIC again when that has what it had.
    """
    told = next((n for n, step in enumerate(steps) if isinstance(step, Run)), len(steps))
    back = [step.inverse() for step in (*reversed(steps[:told]), *steps[told:])]
    return tuple(step for step in back if step is not None)
