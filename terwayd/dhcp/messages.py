"""The messages a DHCP client sends, each with the addresses it goes from and to (RFC 2131 tables 4 and 5)."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

from terwayd.dhcp import options as opt
from terwayd.dhcp.frame import BROADCAST_MAC
from terwayd.dhcp.lease import Lease
from terwayd.dhcp.options import Code, Kind
from terwayd.dhcp.packet import MAX_SIZE, NO_ADDRESS, REQUEST, Message

EVERYWHERE: Final = IPv4Address("255.255.255.255")


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a client is to the DHCP server.

    `client_id` is option 61 with its type byte, None to send none; `hostname` is option 12, or with `fqdn`
    option 81 (RFC 4702 section 3: never both); `vendor_class` is option 60; `request` are options that are
    asked for besides those that are understood.
    """

    mac: bytes
    client_id: bytes | None = None
    hostname: str | None = None
    vendor_class: str | None = None
    fqdn: bool = False
    request: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message to send, from port 68 to port 67; the source MAC is the client's."""

    message: Message
    dst_mac: bytes
    src_ip: IPv4Address
    dst_ip: IPv4Address


def discover(
    identity: Identity, xid: int, secs: int, requested: IPv4Address | None, *, rapid_commit: bool
) -> Outgoing:
    """A DISCOVER, for `requested` if the server can."""
    extra = {Code.RAPID_COMMIT: b""} if rapid_commit else {}
    return _broadcast(identity, Kind.DISCOVER, xid, secs, _requested(requested) | extra)


def request(identity: Identity, xid: int, secs: int, offer: Lease) -> Outgoing:
    """The REQUEST that takes an offer, broadcast so that the other servers learn of the choice."""
    options = _requested(offer.address.ip) | {Code.SERVER_ID: offer.server.packed}
    return _broadcast(identity, Kind.REQUEST, xid, secs, options)


def verify(identity: Identity, xid: int, secs: int, address: IPv4Address) -> Outgoing:
    """The REQUEST of INIT-REBOOT: may this address still be used?"""
    return _broadcast(identity, Kind.REQUEST, xid, secs, _requested(address))


def extend(identity: Identity, xid: int, secs: int, lease: Lease, *, unicast: bool) -> Outgoing:
    """The REQUEST of RENEWING (unicast to the server) and REBINDING: ciaddr, and neither option 50 nor 54."""
    options = _common(identity, Kind.REQUEST) | _wishes(identity)
    message = Message(REQUEST, xid, identity.mac, secs=secs, ciaddr=lease.address.ip, options=options)
    if unicast:
        return Outgoing(message, lease.server_mac or BROADCAST_MAC, lease.address.ip, lease.server)
    return Outgoing(message, BROADCAST_MAC, lease.address.ip, EVERYWHERE)


def release(identity: Identity, xid: int, lease: Lease) -> Outgoing:
    """A RELEASE (RFC 2131 section 4.4.6), from the leased address: some servers ignore it otherwise."""
    options = _common(identity, Kind.RELEASE) | {Code.SERVER_ID: lease.server.packed}
    message = Message(REQUEST, xid, identity.mac, ciaddr=lease.address.ip, options=options)
    return Outgoing(message, lease.server_mac or BROADCAST_MAC, lease.address.ip, lease.server)


def decline(identity: Identity, xid: int, lease: Lease) -> Outgoing:
    """A DECLINE (RFC 2131 section 4.4.4): somebody else uses the address."""
    options = _common(identity, Kind.DECLINE) | _requested(lease.address.ip)
    options |= {Code.SERVER_ID: lease.server.packed, Code.MESSAGE: b"the address is in use"}
    message = Message(REQUEST, xid, identity.mac, options=options)
    return Outgoing(message, BROADCAST_MAC, NO_ADDRESS, EVERYWHERE)


def _broadcast(identity: Identity, kind: Kind, xid: int, secs: int, extra: dict[int, bytes]) -> Outgoing:
    options = _common(identity, kind) | extra | _wishes(identity)
    message = Message(REQUEST, xid, identity.mac, secs=secs, options=options)
    return Outgoing(message, BROADCAST_MAC, NO_ADDRESS, EVERYWHERE)


def _common(identity: Identity, kind: Kind) -> dict[int, bytes]:
    """What every message carries: the server must know the client by the same client-id each time."""
    options: dict[int, bytes] = {Code.MESSAGE_TYPE: bytes((kind,))}
    if identity.client_id is not None:
        options[Code.CLIENT_ID] = identity.client_id
    return options


def _wishes(identity: Identity) -> dict[int, bytes]:
    options: dict[int, bytes] = {Code.MAX_SIZE: MAX_SIZE.to_bytes(2, "big")}
    if identity.hostname and identity.fqdn:
        options[Code.FQDN] = opt.pack_fqdn(identity.hostname)
    elif identity.hostname:
        options[Code.HOSTNAME] = identity.hostname.encode("ascii", "replace")[:253]
    if identity.vendor_class:
        options[Code.VENDOR_CLASS] = identity.vendor_class.encode()[:255]
    more = [code for code in identity.request if code not in opt.REQUESTED]
    options[Code.PARAMETERS] = opt.REQUESTED + bytes(more)
    return options


def _requested(address: IPv4Address | None) -> dict[int, bytes]:
    return {} if address is None else {Code.REQUESTED_ADDRESS: address.packed}
