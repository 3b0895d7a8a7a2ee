"""What a DHCP client tells whoever runs it."""

from __future__ import annotations

from dataclasses import dataclass

from terwayd.dhcp.lease import Lease
from terwayd.dhcp.table import State


@dataclass(frozen=True, slots=True)
class Bound:
    """A lease where there was none."""

    lease: Lease


@dataclass(frozen=True, slots=True)
class Renewed:
    """The lease goes on; its address and options may differ from those of `previous`."""

    lease: Lease
    previous: Lease


@dataclass(frozen=True, slots=True)
class Lost:
    """The address of `lease` must not be used any more; the client goes on to look for another one."""

    reason: str
    lease: Lease


@dataclass(frozen=True, slots=True)
class Conflict:
    """Another station uses the address of the lease; it was told otherwise, once in a while."""

    lease: Lease
    mac: bytes


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """Nobody answers in `state`; a lease, if there is one, still holds.  `reason` is the client's summary."""

    state: State
    reason: str


Event = Bound | Renewed | Lost | NoAnswer | Conflict
