"""Whether the host is still there after a takeover: what answered before must answer after.

A target is "gateway", every gateway of the default routes, or "tcp:ADDRESS:PORT".  What did not
answer before proves nothing, and is left out.  Blocks; for the netlink thread.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from terwayd.errors import HostError, KernelError
from terwayd.kernel import probe
from terwayd.model import Host, IPAddress

log = logging.getLogger(__name__)

_BEFORE = 1.0  # seconds that a target gets to show that it answers now


@dataclass(frozen=True, slots=True)
class Target:
    """Somebody on the network; `port` 0 means a neighbour, asked by ARP or ND."""

    address: IPAddress
    port: int = 0

    def __str__(self) -> str:
        return f"{self.address} port {self.port}" if self.port else f"the gateway {self.address}"


def targets(wanted: Iterable[str], host: Host, dev: str) -> tuple[Target, ...]:
    """The targets that `wanted` names, on a host whose network is on `dev`."""
    found: list[Target] = []
    for word in wanted:
        if word == "gateway":
            found += [Target(gateway) for gateway in host.gateways_of(dev)]
        else:
            address, _, port = word.removeprefix("tcp:").rpartition(":")
            found.append(Target(ip_address(address.strip("[]")), int(port)))
    return tuple(found)


def answering(candidates: tuple[Target, ...], host: Host, dev: str) -> tuple[Target, ...]:
    """Those that answer now; the others are named in the log."""
    there = []
    for target in candidates:
        if _answers(target, host, dev, _BEFORE):
            there.append(target)
        else:
            log.warning("%s does not answer before the takeover, so it proves nothing after", target)
    return tuple(there)


def verify(expected: tuple[Target, ...], host: Host, dev: str, timeout: float) -> None:
    """Raise HostError for the first of `expected` that does not answer on `dev` within `timeout` seconds."""
    for target in expected:
        if not _answers(target, host, dev, timeout):
            raise HostError(
                f"{target} answered before but does not on {dev} within {timeout:g} s",
                hint="the switch or hypervisor may tie the port to what it has seen: see its port security",
            )


def _answers(target: Target, host: Host, dev: str, timeout: float) -> bool:
    if target.port:
        return probe.tcp(target.address, target.port, timeout)
    link = host.link(dev)
    if link is None:
        return False
    own = [known.interface for known in host.addresses_of(dev)]
    try:
        if isinstance(target.address, IPv6Address):
            sources = [i.ip for i in own if isinstance(i.ip, IPv6Address) and i.ip.is_link_local]
            source = next(iter(sources), IPv6Address(0))
            return probe.neighbour(dev, link.mac, source, target.address, timeout)
        near = [i.ip for i in own if isinstance(i.ip, IPv4Address) and target.address in i.network]
        return probe.arp(dev, link.mac, next(iter(near), IPv4Address(0)), target.address, timeout)
    except OSError as error:
        raise KernelError(f"asking for {target} on {dev}: {error.strerror}", error.errno or 0) from None
