"""An address that is used as it was asked for, without DHCP: a lease of no server, and without end.  Pure."""

from __future__ import annotations

import math
from ipaddress import IPv4Address, IPv4Interface

from terwayd.dhcp.lease import Lease

_NOBODY = IPv4Address(0)


def static_lease(address: IPv4Interface, now: float) -> Lease:
    never = math.inf
    return Lease(address, _NOBODY, acquired=now, renew_at=never, rebind_at=never, expires_at=never)


def is_static(lease: Lease) -> bool:
    return lease.server == _NOBODY
