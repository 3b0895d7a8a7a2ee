"""What a pod may send, as a program of classic BPF for what comes in by its port of the bridge.  Pure.

What the program does not accept, for what it says or because a load leads behind the frame's end, the second one drops:
what is not understood, a tagged frame or a malformed header, is not the pod's to send.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address

from terwayd.bpf import Program, assemble

# Offsets count from the Ethernet header.  Nearly all that pods send takes the way straight down to `accept`, by loads of
# two bytes and more: the kernel calls a function for those of one, or by index.
_PROGRAM = """
        ld [6]                  ; the source MAC is the pod's
        jne #mac_high, refuse
        ld vlan_avail           ; no tag
        jne #0, refuse
        ldh [0]
        jset #0x0100, group, typed
group:  ld [0]                  ; not 01:80:c2:00:00:00 to 0f, which bridges speak to each other by
        jne #0x0180c200, typed
        ldh [4]
        jset #0xfff0, typed, refuse
typed:  ld [10]                 ; the rest of the source MAC, and the EtherType
        jeq #mac_ipv4, ipv4
        jeq #mac_arp, arp
        jeq #mac_ipv6, ipv6
refuse: ret #0

ipv4:   ld [26]
{ipv4_source}
        ret #0
ipv4_own:
        ld [20]                 ; a fragment behind the first has no ports
        jset #0x1fff0000, ipv4_accept
        and #0xff
        jne #17, ipv4_accept
        ldh [14]
        and #0xff00
        jne #0x4500, options
        ldh [34]                ; neither a DHCP server nor a client
        jeq #67, ipv4_refuse
        ldh [36]
        jeq #67, ipv4_refuse
ipv4_accept:
        ret #-1
options:                        ; version 4, a longer header
        jlt #0x4500, ipv4_refuse
        jgt #0x4f00, ipv4_refuse
        ldx 4*([14]&0xf)
        ldh [x+14]
        jeq #67, ipv4_refuse
        ldh [x+16]
        jeq #67, ipv4_refuse
        ret #-1
ipv4_refuse:
        ret #0

arp:    ld [14]                 ; Ethernet, IPv4
        jne #0x00010800, arp_refuse
        ldh [18]
        jne #0x0604, arp_refuse
        ld [22]
        jne #mac_high, arp_refuse
        ldh [26]
        jne #mac_low, arp_refuse
        ld [28]
{arp_sender}
        jne #0, arp_refuse      ; a probe for an address of its own
        ldh [20]
        jne #1, arp_refuse
        ld [38]
{arp_target}
arp_refuse:
        ret #0
arp_accept:
        ret #-1

ipv6:
{ipv6_source}
        ld [22]                 ; the unspecified address
        jne #0, ipv6_refuse
        ld [26]
        jne #0, ipv6_refuse
        ld [30]
        jne #0, ipv6_refuse
        ld [34]
        jne #0, ipv6_refuse
        ldx #54
        ldb [20]
        jeq #0, listener
        jne #58, ipv6_refuse
        ldb [54]
        jeq #133, ipv6_accept   ; router solicitation
        jeq #135, target, ipv6_refuse
ipv6_own:
        ldx #54
        ldb [20]
        jeq #0, listener
        jne #44, upper
        ldb [54]                ; a fragment
        jeq #0, ipv6_refuse
        jeq #43, ipv6_refuse
        jeq #44, ipv6_refuse
        jeq #60, ipv6_refuse
        ldh [56]
        jset #0xfff8, ipv6_accept
        ldx #62
        ldb [54]
upper:  jeq #43, ipv6_refuse    ; routing header, destination options
        jeq #60, ipv6_refuse
        jeq #17, udp
        jeq #58, icmpv6
        jne #51, ipv6_accept
        ldb [x+0]               ; an authentication header
        jeq #0, ipv6_refuse
        jeq #43, ipv6_refuse
        jeq #44, ipv6_refuse
        jeq #51, ipv6_refuse
        jeq #60, ipv6_refuse
        st M[0]
        ldb [x+1]
        add #2
        lsh #2
        addx
        tax
        ld M[0]
        jeq #58, icmpv6
        jne #17, ipv6_accept
udp:    ldh [x+0]               ; no DHCPv6 server
        jeq #547, ipv6_refuse, ipv6_accept
listener:
        ldb [54]                ; of hop-by-hop options, those of multicast listeners
        jne #58, ipv6_refuse
        ldb [55]
        add #1
        lsh #3
        tax
        ldb [x+54]
        jeq #131, ipv6_accept
        jeq #132, ipv6_accept
        jeq #143, ipv6_accept, ipv6_refuse
icmpv6: ldb [x+0]               ; no router advertisement, no redirect
        jeq #134, ipv6_refuse
        jeq #137, ipv6_refuse
        jeq #136, target        ; a neighbour advertisement, or solicitation, for an address of its own
ipv6_accept:
        ret #-1
ipv6_refuse:
        ret #0
target:
{ipv6_target}
        ret #0
own:    ret #-1
"""

_ETHERTYPES = {"ipv4": 0x0800, "arp": 0x0806, "ipv6": 0x86DD}
_DROP = 2  # TC_ACT_SHOT of linux/pkt_cls.h
_MOST = 40  # interfaces of one pod that know of each other: a jump leads over 255 instructions at most
FIRST, SECOND = 1, 2
"""The priorities of the two programs."""
REST = assemble(f"ret #{_DROP}").code


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


def programs_of(ports: Iterable[Port]) -> dict[str, dict[int, bytes]]:
    """The programs of ports by their names, each with its priority; of a pod it takes all of its ports."""
    pods: dict[str, list[Port]] = {}
    for port in ports:
        pods.setdefault(port.pod, []).append(port)
    return {
        port.name: _programs(port, [port, *(other for other in beside if other is not port)][:_MOST])
        for beside in pods.values()
        for port in beside
    }


def _programs(port: Port, beside: list[Port]) -> dict[int, bytes]:
    if not port.guarded:
        return {}
    addresses = [address for one in beside for address in one.addresses]
    identifiers = [interface_identifier(mac_of(one)) for one in beside if one.ipv6]
    return {FIRST: program(mac_of(port), addresses, identifiers), SECOND: REST}


def mac_of(port: Port) -> bytes:
    return bytes.fromhex(port.mac.replace(":", ""))


def interface_identifier(mac: bytes) -> bytes:
    """What the kernel makes a pod's IPv6 addresses of: the modified EUI-64 of RFC 4291, appendix A."""
    return bytes([mac[0] ^ 2, *mac[1:3], 0xFF, 0xFE, *mac[3:]])


def program(mac: bytes, addresses: Collection[IPv4Address], identifiers: Collection[bytes]) -> bytes:
    """Accepts what a port may send that has this MAC, these addresses, and these IPv6 identifiers under any prefix."""
    low = int.from_bytes(mac[4:], "big")
    numbers = {"mac_high": int.from_bytes(mac[:4], "big"), "mac_low": low}
    numbers |= {f"mac_{name}": low << 16 | kind for name, kind in _ETHERTYPES.items()}
    numbers |= {f"address_{number}": int(address) for number, address in enumerate(addresses)}
    for number, identifier in enumerate(identifiers):
        numbers[f"high_{number}"] = int.from_bytes(identifier[:4], "big")
        numbers[f"low_{number}"] = int.from_bytes(identifier[4:], "big")
    return _assembled(len(addresses), len(identifiers)).filled(numbers)


@lru_cache
def _assembled(addresses: int, identifiers: int) -> Program:
    def one_of_the_addresses(label: str) -> str:
        return "\n".join(f"jeq #address_{number}, {label}" for number in range(addresses))

    def one_of_the_identifiers(name: str, high: str, low: str, label: str) -> str:
        return "\n".join(
            f"ld {high}\njne #high_{number}, {name}_{number}\nld {low}\njeq #low_{number}, {label}\n{name}_{number}:"
            for number in range(identifiers)
        )

    return assemble(
        _PROGRAM.format(
            ipv4_source=one_of_the_addresses("ipv4_own"),
            arp_sender=one_of_the_addresses("arp_accept"),
            arp_target=one_of_the_addresses("arp_accept"),
            ipv6_source=one_of_the_identifiers("source", "[30]", "[34]", "ipv6_own"),
            ipv6_target=one_of_the_identifiers("target", "[x+16]", "[x+20]", "own"),
        )
    )
