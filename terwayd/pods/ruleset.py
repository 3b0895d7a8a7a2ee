"""What terwayd has nftables do, as text for `nft -f` and as the keys of its sets.  Pure.

Two tables, both called terwayd, replaced in one transaction.  `bridge terwayd` sees what pods send before anything
else does; no rule of it is a pod's own: the pods are elements of sets, which change with each of them.
`inet terwayd` makes the way back of a Service's answer lead through this node again.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address

from terwayd.model import NFT_FAMILIES, NFT_TABLE

_IPV4 = b"\x08\0"
_SETS = {
    "ports": "type ifname",
    "macs": "type ifname . ether_addr",
    "senders": "typeof iif . @ll,48,64 . @nh,96,32",  # index, source MAC with EtherType, source: what costs least
    "leased": "type ifname . ether_addr . ipv4_addr",
    "identifiers": "typeof iifname . ether saddr . @nh,128,64",
}
SETS = tuple(_SETS)

# Where the answer would go from backend to pod directly, as on one LAN it does, nobody knew the backend's address.
_RETURN_PATH = """
    chain return_path {{
        type nat hook postrouting priority srcnat + 10
        iifname "{bridge}" oifname "{bridge}" ct status dnat masquerade
    }}"""

_SERVICES = """
    chain to_pods {
        type filter hook output priority 0
        oifname "tw*" icmp type redirect drop
    }
    chain back_to_the_sender {
        type filter hook forward priority 0
        meta pkttype { broadcast, multicast } oifname . ether saddr @macs drop
    }"""

# Nearly all that pods send is accepted by the first rule, which has to be cheap; what it leaves the chains below judge.
# Each of them ends in `refuse`: what is not understood, a tagged frame or a malformed header, is not the pod's to send.
# The first rule's second port is compared without the last bit: nft 1.0.6 makes one comparison of two on one header.
_ANTISPOOF = """
    counter refused { comment "frames that were not the pods' to send" }
    chain from_pods {
        type filter hook prerouting priority -350
        meta pkttype != multicast iif . @ll,48,64 . @nh,96,32 @senders @th,0,16 != 67 @th,16,16 & 0xfffe != 66 accept
        iifname @ports goto pod
    }
    chain refuse {
        counter name refused drop
    }
    chain pod {
        ether daddr 01:80:c2:00:00:00-01:80:c2:00:00:0f goto refuse
        ether type vmap { ip : goto ipv4, arp : goto arp_message, ip6 : goto ipv6 }
        goto refuse
    }
    chain ipv4 {
        iifname . ether saddr . ip saddr @leased goto ipv4_own
        goto refuse
    }
    chain ipv4_own {
        meta l4proto != udp accept
        @th,0,16 67 goto refuse
        @th,16,16 67 goto refuse
        meta l4proto udp accept
        goto refuse
    }
    chain arp_message {
        arp htype != 1 goto refuse
        arp ptype != ip goto refuse
        arp hlen != 6 goto refuse
        arp plen != 4 goto refuse
        iifname . ether saddr @macs goto arp_own
        goto refuse
    }
    chain arp_own {
        iifname . arp saddr ether . arp saddr ip @leased accept
        arp operation request arp saddr ip 0.0.0.0 iifname . arp saddr ether . arp daddr ip @leased accept
        goto refuse
    }
    chain ipv6 {
        iifname . ether saddr . @nh,128,64 @identifiers goto ipv6_own
        ip6 saddr :: iifname . ether saddr @macs goto ipv6_unspecified
        goto refuse
    }
    chain ipv6_own {
        ip6 nexthdr vmap { 0 : goto multicast_listener, 43 : goto refuse, 60 : goto refuse }
        frag nexthdr { 0, 43, 44, 60 } goto refuse
        meta l4proto icmpv6 goto icmpv6_own
        meta l4proto != udp accept
        udp sport 547 goto refuse
        meta l4proto udp accept
        goto refuse
    }
    chain icmpv6_own {
        icmpv6 type vmap { nd-router-advert : goto refuse, nd-redirect : goto refuse, nd-neighbor-advert : goto target }
        accept
    }
    chain ipv6_unspecified {
        ip6 nexthdr 0 goto multicast_listener
        icmpv6 type nd-router-solicit accept
        icmpv6 type nd-neighbor-solicit goto target
        goto refuse
    }
    chain target {
        iifname . ether saddr . @th,128,64 @identifiers accept
        goto refuse
    }
    chain multicast_listener {
        icmpv6 type { mld-listener-report, mld-listener-done, mld2-listener-report } accept
        goto refuse
    }"""


@dataclass(frozen=True, slots=True)
class Port:
    """The host's end of a pod's veth, and what it is that the pod has behind it.  `guarded` False: it may send anything.

    With `ipv6` it has the addresses that the kernel makes of its MAC, under any prefix: the link-local one, and those
    of the prefixes that a router announces.  Ports of one `pod` may send with each other's addresses, as a host with
    two interfaces on one LAN does, but each with its own MAC.  `index` is the interface's, 0 where there is none yet.
    """

    name: str
    mac: str
    pod: str
    addresses: tuple[IPv4Address, ...] = ()
    ipv6: bool = True
    guarded: bool = True
    index: int = 0

    @property
    def _mac(self) -> bytes:
        return bytes.fromhex(self.mac.replace(":", ""))

    def _elements(self, beside: Iterable[Port]) -> Iterator[tuple[str, bytes]]:
        """Each with its set; `beside` are the ports of its pod, itself included."""
        name = self.name.encode().ljust(16, b"\0")
        own = name + self._mac + bytes(2)  # each part of a key fills whole words
        head = self.index.to_bytes(4, sys.byteorder) + self._mac + _IPV4
        yield "macs", own
        if not self.guarded:
            return
        yield "ports", name
        for port in beside:
            for address in port.addresses:
                yield "leased", own + address.packed
                if self.index:
                    yield "senders", head + address.packed
            if port.ipv6:
                yield "identifiers", own + interface_identifier(port._mac)


def interface_identifier(mac: bytes) -> bytes:
    """What the kernel makes a pod's IPv6 addresses of: the modified EUI-64 of RFC 4291, appendix A."""
    return bytes([mac[0] ^ 2, *mac[1:3], 0xFF, 0xFE, *mac[3:]])


def keys_of(ports: Iterable[Port]) -> dict[str, set[bytes]]:
    """The elements of `ports`, by set; of a pod it takes all of its ports."""
    pods: dict[str, list[Port]] = {}
    for port in ports:
        pods.setdefault(port.pod, []).append(port)
    found: dict[str, set[bytes]] = {key: set() for key in SETS}
    for beside in pods.values():
        for port in beside:
            for key, element in port._elements(beside):
                found[key].add(element)
    return found


def ruleset(bridge: str, ports: Iterable[Port], *, antispoof: bool, services: bool) -> str:
    """Both tables as they shall be; one that has nothing to do is not there."""
    tables = dict.fromkeys(NFT_FAMILIES, "")
    if antispoof or services:
        elements = keys_of(ports)
        tables["bridge"] = "".join(_set(key, elements[key]) for key in SETS)
        tables["bridge"] += (_ANTISPOOF if antispoof else "") + (_SERVICES if services else "")
    if services:
        tables["inet"] = _RETURN_PATH.format(bridge=bridge)
    return "".join(
        f"table {family} {NFT_TABLE}\ndelete table {family} {NFT_TABLE}\n"
        + (f"table {family} {NFT_TABLE} {{{body}\n}}\n" if body else "")
        for family, body in tables.items()
    )


def _set(name: str, elements: set[bytes]) -> str:
    listed = ", ".join(sorted(map(_sender if name == "senders" else _element, elements)))
    return f"\n    set {name} {{ {_SETS[name]}; {f'elements = {{ {listed} }}; ' if listed else ''}}}"


def _sender(key: bytes) -> str:
    return f"{int.from_bytes(key[:4], sys.byteorder)} . 0x{key[4:12].hex()} . 0x{key[12:].hex()}"


def _element(key: bytes) -> str:
    name, mac, rest = key[:16].rstrip(b"\0").decode(), key[16:22], key[24:]
    parts = [f'"{name}"']
    parts += [mac.hex(":")] if mac else []
    if rest:
        parts.append(str(IPv4Address(rest)) if len(rest) == 4 else f"0x{rest.hex()}")
    return " . ".join(parts)


def in_words(bridge: str, *, antispoof: bool, services: bool, guarded: int) -> list[tuple[str, str]]:
    """For status: each table, and what its rules do."""
    told = []
    if services:
        told.append(
            (f"inet {NFT_TABLE}", f"what a Service sends back out of {bridge} gets the node's own address")
        )
        told.append((f"bridge {NFT_TABLE}", "no ICMP redirect goes to a pod"))
    if antispoof:
        what = f"{guarded} pod{'s' if guarded != 1 else ''}"
        told.append((f"bridge {NFT_TABLE}", f"{what} held to their own MAC and leased addresses"))
    return told
