"""An address that is used as it was asked for, without DHCP: a lease of no server, and without end."""

from __future__ import annotations

import math
from ipaddress import IPv4Address, IPv4Interface

from terwayd.dhcp.lease import Lease
from terwayd.kernel import probe
from terwayd.kernel.netlink import Netlink

PROBE_S = 0.4  # as long as [dhcp] conflict_detection = "fast" takes
_NOBODY = IPv4Address(0)


def static_lease(address: IPv4Interface, now: float) -> Lease:
    return Lease(
        address=address,
        server=_NOBODY,
        server_mac=b"",
        routers=(),
        routes=(),
        dns=(),
        domain="",
        search=(),
        mtu=None,
        ntp=(),
        acquired=now,
        renew_at=math.inf,
        rebind_at=math.inf,
        expires_at=math.inf,
    )


def is_static(lease: Lease) -> bool:
    return lease.server == _NOBODY


def is_taken(ifname: str, mac: str, address: IPv4Address) -> bool:
    """Whether somebody on the LAN answers for `address` (RFC 5227 section 2.1.1); in the pod's namespace, blocking."""
    with Netlink() as netlink:
        netlink.set_link(ifname, state="up")
    return probe.arp(ifname, mac, _NOBODY, address, PROBE_S)
