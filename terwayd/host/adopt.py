"""A takeover known again without its journal: from the mark on the NIC and what its bridge has.  Pure.

What the host was like before is what the bridge carries now, said of the NIC.  The plan made of that
is the one that was made then, but for what nobody knows any more (who managed the NIC, for one).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from terwayd.host.plan import via_bridge
from terwayd.host.uplink import uplink_alias
from terwayd.model import IFA_F_NOPREFIXROUTE, Address, Host, Link

_PROTO_KERNEL = 2


def uplink_of(host: Host, bridge: str) -> Link | None:
    """The NIC that terwayd put under `bridge`, by its mark; None when there is none."""
    link = host.link(bridge)
    if link is None:
        return None
    ours = [port for port in host.links if port.master == link.index and port.alias == uplink_alias(bridge)]
    return ours[0] if ours else None


def before(host: Host, nic: Link, bridge: str, sysctls: Mapping[str, str]) -> Host:
    """The host as it was before `nic` was put under `bridge`; `sysctls` are those of the bridge."""
    ipv6 = any(address.interface.version == 6 for address in host.addresses_of(bridge))
    known = {key.replace(f"/{bridge}/", f"/{nic.name}/"): value for key, value in sysctls.items()}
    known[f"net/ipv6/conf/{nic.name}/disable_ipv6"] = "0" if ipv6 else "1"
    known[f"net/ipv6/conf/{nic.name}/addr_gen_mode"] = "0"
    return Host(
        links=tuple(
            replace(link, master=0, alias="") if link.index == nic.index else link
            for link in host.links
            if link.name != bridge
        ),
        addresses=tuple(_on_nic(address, host, nic.name) for address in host.addresses_of(bridge)),
        routes=tuple(via_bridge(route, bridge, nic.name) for route in host.routes_of(bridge)),
        neighbours=(),
        rules=host.rules,
        sysctls=known,
    )


def _on_nic(address: Address, host: Host, nic: str) -> Address:
    """The kernel made its connected route unless it was told not to: then no such route is there."""
    connected = any(
        route.dst == address.interface.network and route.proto == _PROTO_KERNEL
        for route in host.routes_of(address.dev)
    )
    flags = address.flags & ~IFA_F_NOPREFIXROUTE if connected else address.flags
    label = address.label.replace(address.dev, nic, 1) if address.label.startswith(address.dev) else ""
    return replace(address, dev=nic, flags=flags, label=label)
