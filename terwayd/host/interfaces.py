"""The steps that make, change and join interfaces.  They are steps as in `steps`."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from terwayd.model import LOCAL_PORT, other_mtu

DIVERT_TABLES = (("netdev", "terwayd"), ("bridge", "terwayd_divert"))  # the first one first, to take away


@dataclass(frozen=True, slots=True)
class AddBridge:
    """A bridge with the NIC's MAC in the creating message, so that nothing rewrites it.

    Its MTU is made another one afterwards: from then on the kernel does not lower it to that of a port.
    """

    name: str
    mac: str
    mtu: int

    def __str__(self) -> str:
        return (
            f"ip link add {self.name} address {self.mac} mtu {other_mtu(self.mtu)} type bridge"
            f" stp_state 0 forward_delay 0 mcast_snooping 0; ip link set {self.name} mtu {self.mtu}"
        )

    def inverse(self) -> DelLink:
        return DelLink(self.name)


@dataclass(frozen=True, slots=True)
class DelLink:
    name: str

    def __str__(self) -> str:
        return f"ip link del {self.name}"

    def inverse(self) -> None:
        return None


@dataclass(frozen=True, slots=True)
class SetUp:
    """`back` is whether it was down before and is to be so again."""

    dev: str
    back: bool = False

    def __str__(self) -> str:
        return f"ip link set {self.dev} up"

    def inverse(self) -> SetDown | None:
        return SetDown(self.dev) if self.back else None  # the bridge goes with its AddBridge


@dataclass(frozen=True, slots=True)
class SetDown:
    dev: str

    def __str__(self) -> str:
        return f"ip link set {self.dev} down"

    def inverse(self) -> SetUp:
        return SetUp(self.dev, back=True)


@dataclass(frozen=True, slots=True)
class SetAlias:
    """The mark by which a NIC of ours is known again when nothing else is left."""

    dev: str
    alias: str
    before: str

    def __str__(self) -> str:
        return f"ip link set {self.dev} alias '{self.alias}'"

    def inverse(self) -> SetAlias:
        return SetAlias(self.dev, self.before, self.alias)


@dataclass(frozen=True, slots=True)
class SetMac:
    dev: str
    mac: str
    before: str

    def __str__(self) -> str:
        return f"ip link set {self.dev} address {self.mac}"

    def inverse(self) -> SetMac:
        return SetMac(self.dev, self.before, self.mac)


@dataclass(frozen=True, slots=True)
class SetMtu:
    dev: str
    mtu: int
    before: int

    def __str__(self) -> str:
        return f"ip link set {self.dev} mtu {self.mtu}"

    def inverse(self) -> SetMtu:
        return SetMtu(self.dev, self.before, self.mtu)


@dataclass(frozen=True, slots=True)
class Enslave:
    """A port of the bridge, isolated from terwayd's own: what comes from the LAN never goes back to it."""

    dev: str
    bridge: str

    def __str__(self) -> str:
        return f"ip link set {self.dev} master {self.bridge}; bridge link set dev {self.dev} isolated on"

    def inverse(self) -> Release:
        return Release(self.dev, self.bridge)


@dataclass(frozen=True, slots=True)
class Release:
    dev: str
    bridge: str

    def __str__(self) -> str:
        return f"ip link set {self.dev} nomaster"

    def inverse(self) -> Enslave:
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

    def inverse(self) -> DelLink:
        return DelLink(self.port)


@dataclass(frozen=True, slots=True)
class Divert:
    """What comes in on the NIC goes to the bridge by terwayd's own port, whose free end is `free`.

    While the kernel makes a NIC a port, and while it makes it none, it drops what comes in there.  Where it
    cannot divert, a packet may be lost in that moment, and that is all.  In the moment in which the NIC is a port
    and not isolated yet, a second table keeps what has come in from leaving by it again.
    """

    dev: str
    bridge: str
    free: str

    @property
    def command(self) -> tuple[str, ...]:
        chains = (
            f"divert {{ type filter hook ingress device {self.dev} priority -500; fwd to {self.free}; }}",
            # The port's name is no field: the journals of older versions have none.
            f"keep {{ type filter hook forward priority -500; iifname {LOCAL_PORT} oifname {self.dev} drop; }}",
        )
        tables = zip(DIVERT_TABLES, chains, strict=True)
        return ("nft", "; ".join(f"table {' '.join(table)} {{ chain {chain}; }}" for table, chain in tables))

    def __str__(self) -> str:
        return shlex.join(self.command)

    def inverse(self) -> EndDivert:
        return EndDivert(self.dev, self.bridge, self.free)


@dataclass(frozen=True, slots=True)
class EndDivert:
    dev: str
    bridge: str
    free: str

    def __str__(self) -> str:
        tables = (
            f"add table {family} {name}; delete table {family} {name}" for family, name in DIVERT_TABLES
        )
        return shlex.join(("nft", "; ".join(tables)))  # gone already is gone

    def inverse(self) -> Divert:
        return Divert(self.dev, self.bridge, self.free)


@dataclass(frozen=True, slots=True)
class SetSysctl:
    """`key` as under /proc/sys, such as net/ipv6/conf/eth0/accept_ra."""

    key: str
    value: str
    before: str | None = None

    def __str__(self) -> str:
        return f"sysctl -w {self.key}={self.value}"

    def inverse(self) -> SetSysctl | None:
        return None if self.before is None else SetSysctl(self.key, self.before, self.value)
