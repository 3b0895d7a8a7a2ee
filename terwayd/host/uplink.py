"""Which NIC is the uplink, and which must never be one."""

from __future__ import annotations

from terwayd.errors import HostError, Refused
from terwayd.model import Host, Link

_SETTING = "host.uplink in /etc/terway.toml"


def find_uplink(host: Host, wanted: str, bridge: str, *, leased: bool = False) -> Link:
    """The NIC to put under the bridge: `wanted`, or for "auto" the one of the default route.

    `leased` is whether an IPv4 address that it leases can be carried over.

    Raises Refused where it must not be taken over, HostError where it is not there (yet).
    A NIC that is under `bridge` already is a right answer.
    """
    if wanted == "auto":
        link = _of_default_route(host, bridge)
    else:
        named = host.link(wanted)
        if named is None:
            names = ", ".join(link.name for link in host.links if not link.loopback and not link.kind)
            raise HostError(
                f"host.uplink: there is no interface {wanted!r} on this host",
                hint=f"set {_SETTING} to one of: {names or 'none found'}; or to auto",
            )
        link = named
    _refuse(host, link, bridge, leased=leased)
    return link


def _of_default_route(host: Host, bridge: str) -> Link:
    for route in host.default_routes():
        name = route.dev or next((hop.dev for hop in route.hops), "")
        link = host.link(name)
        if link is None:
            continue
        if link.name != bridge:
            return link
        ports = [
            port
            for port in host.links
            if port.master == link.index and not port.alias and port.kind != "veth"
        ]
        ports += [
            port for port in host.links if port.master == link.index and port.alias == uplink_alias(bridge)
        ]
        if ports:
            return ports[-1]
    raise HostError(
        'host.uplink = "auto": this host has no default route to find its NIC by',
        hint=f"wait for the network, or name the NIC: {_SETTING}",
    )


def uplink_alias(bridge: str) -> str:
    """The interface alias that marks a NIC as put under `bridge` by terwayd."""
    return f"terwayd uplink of {bridge}"


def _refuse(host: Host, link: Link, bridge: str, *, leased: bool) -> None:
    """Raise Refused where a takeover of `link` cannot work or would cut the host off."""
    master = host.by_index(link.master) if link.master else None
    children = [
        child.name for child in host.links if child.lower == link.index and child.kind not in {"", "veth"}
    ]
    dynamic = [a for a in host.addresses_of(link.name) if a.valid is not None and a.interface.version == 4]
    other = f"name another NIC: {_SETTING}"
    reason = ""
    if link.loopback:
        reason, hint = "is the loopback interface", other
    elif not link.mac:
        reason, hint = "carries no Ethernet frames, so it cannot be bridged", other
    elif link.wireless:
        reason, hint = (
            "is wireless; an access point takes frames of one MAC only, so it cannot be bridged",
            other,
        )
    elif link.kind == "bridge":
        reason, hint = "is a bridge itself", f"name the NIC under it, or use it as it is: {_SETTING}"
    elif master is not None and master.name != bridge:
        kind = "a port of the bridge" if master.kind == "bridge" else f"under the {master.kind}"
        reason, hint = f"is {kind} {master.name} already", f"take it out there first, or {other}"
    elif children:
        reason, hint = f"carries {', '.join(children)}, which would fall silent", other
    elif dynamic and not leased:
        reason = f"has the leased address {dynamic[0].interface}, of a DHCP client that terwayd does not know"
        hint = (
            "give this host a static address, or have ifupdown, systemd-networkd or NetworkManager lease one"
        )
    if reason:
        raise Refused(f"host.uplink: {link.name} {reason}", hint=hint)
