"""The host's address where the NIC's own is not kept: explicit, or leased by terwayd.  Pure.

Only for a NIC that nobody manages.  What is added is on the bridge alone, so that it goes with the bridge.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv6Interface, ip_network

from terwayd.config import HostConfig
from terwayd.errors import Refused
from terwayd.host import interfaces, moves
from terwayd.host.lease import Leased
from terwayd.host.managers import Found
from terwayd.host.plan import Plan
from terwayd.host.steps import Step
from terwayd.model import (
    IFA_F_NOPREFIXROUTE,
    IFA_F_PERMANENT,
    SCOPE_LINK,
    Address,
    Host,
    IPAddress,
    IPInterface,
    Link,
    Route,
)

_KERNEL, _STATIC, _DHCP = 2, 4, 16  # protocols of routes
_V6_CONNECTED, _V6_METRIC = 256, 1024  # as the kernel has them


def refuse(settings: HostConfig, host: Host, nic: Link, found: Found) -> None:
    """Raise Refused where somebody else gives `nic` its address."""
    if settings.address == "keep":
        return
    said = f"host.address = {_shown(settings.address)}"
    manager = next((client.name for client in found.clients), "")
    manager = manager or ("ifupdown" if found.ifupdown else "")
    manager = manager or ("systemd-networkd or NetworkManager" if found.userspace_ra else "")
    if manager:
        raise Refused(
            f"{said}: {nic.name} is managed by {manager}, which gives it its address",
            hint=f'host.address = "keep", or take {nic.name} out of the configuration of {manager}',
        )
    four = [a.interface for a in host.addresses_of(nic.name) if a.interface.version == 4]
    if settings.address == "dhcp" and four:
        raise Refused(
            f"{said}: {nic.name} has {four[0]} already",
            hint=f'host.address = "keep", or: ip addr flush dev {nic.name}',
        )


def given(settings: HostConfig, host: Host, nic: Link) -> tuple[Step, ...]:
    """The steps that put the explicit addresses of `settings` on the bridge, with their routes."""
    if isinstance(settings.address, str):
        return ()
    there = {address.interface for address in host.addresses_of(nic.name)}
    steps: list[Step] = []
    for interface in settings.address:
        if interface not in there:
            steps += _on(settings.bridge, interface)
    steps += [moves.AddRoute(_default(settings.bridge, gateway, _STATIC)) for gateway in settings.gateway]
    return tuple(steps)


def client_id(current: Plan) -> str:
    """Who the host is to the DHCP server: option 61 of RFC 2132, made of its MAC."""
    mac = next(step.mac for step in current.steps if isinstance(step, interfaces.AddBridge))
    return "01" + mac.replace(":", "")


def leased(current: Plan, address: IPv4Interface, lease: Leased) -> Plan:
    """`current` with the first address that terwayd has leased for the host itself."""
    steps = _on(current.bridge, address)
    if lease.router is not None:
        steps.append(moves.AddRoute(_default(current.bridge, lease.router, _DHCP)))
    return replace(current, steps=(*current.steps, *steps), lease=lease)


def _on(bridge: str, interface: IPInterface) -> list[Step]:
    network = interface.network
    flags = IFA_F_PERMANENT | IFA_F_NOPREFIXROUTE
    if isinstance(interface, IPv6Interface):
        address = Address(bridge, interface, flags=flags)
        route = Route(network, bridge, proto=_KERNEL, priority=_V6_CONNECTED)
    else:
        broadcast = network.broadcast_address if network.prefixlen < 31 else None
        assert broadcast is None or isinstance(broadcast, IPv4Address)
        address = Address(bridge, interface, broadcast=broadcast, label=bridge, flags=flags)
        route = Route(network, bridge, prefsrc=interface.ip, proto=_KERNEL, scope=SCOPE_LINK)
    single = network.prefixlen == network.max_prefixlen
    return [moves.AddAddress(address), *([] if single else [moves.AddRoute(route)])]


def _default(bridge: str, gateway: IPAddress, proto: int) -> Route:
    everywhere = ip_network("0.0.0.0/0" if gateway.version == 4 else "::/0")
    return Route(everywhere, bridge, gateway, proto=proto, priority=0 if gateway.version == 4 else _V6_METRIC)


def _shown(address: object) -> str:
    return f'"{address}"' if isinstance(address, str) else str([str(one) for one in address])  # type: ignore[attr-defined]
