"""Frames from inside a pod, and who hears them: `frames.py send INTERFACE ORDER`, `frames.py hear INTERFACE`.

ORDER is JSON: whose MACs and addresses, and which frames by name.  Each frame has its name in it.  `hear` prints the
names of all that came until the frame called "end", which is sent last.
"""

from __future__ import annotations

import json
import re
import socket
import struct
import sys
from ipaddress import IPv4Address, IPv6Address
from typing import Any

ALL = b"\xff" * 6
BROADCAST = IPv4Address("255.255.255.255")
NODES, ROUTERS, REPORTS = IPv6Address("ff02::1"), IPv6Address("ff02::2"), IPv6Address("ff02::16")
ANY6 = IPv6Address("::")
IP4, ARP, IP6, VLAN = 0x0800, 0x0806, 0x86DD, 0x8100


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def link_local(own: bytes) -> IPv6Address:
    return IPv6Address(b"\xfe\x80" + bytes(6) + bytes([own[0] ^ 2]) + own[1:3] + b"\xff\xfe" + own[3:])


def ether(src: bytes, kind: int, payload: bytes, dst: bytes = ALL) -> bytes:
    return (dst + src + struct.pack("!H", kind) + payload).ljust(60, b"\0")


def checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    total = (total & 0xFFFF) + (total >> 16)
    return (total + (total >> 16)) & 0xFFFF ^ 0xFFFF


def ip4(
    src: str | IPv4Address, payload: bytes, *, proto: int = 17, fragment: int = 0, options: bytes = b""
) -> bytes:
    size = 20 + len(options)
    head = struct.pack("!BBHHHBBH", 0x40 | size // 4, 0, size + len(payload), 7, fragment, 64, proto, 0)
    head += IPv4Address(src).packed + BROADCAST.packed + options
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def udp(sport: int, dport: int, data: bytes) -> bytes:
    return struct.pack("!HHHH", sport, dport, 8 + len(data), 0) + data


def ip6(src: IPv6Address, payload: bytes, *, proto: int, dst: IPv6Address = NODES) -> bytes:
    return struct.pack("!IHBB", 6 << 28, len(payload), proto, 255) + src.packed + dst.packed + payload


def icmp6(src: IPv6Address, kind: int, body: bytes, dst: IPv6Address = NODES) -> bytes:
    message = struct.pack("!BBH", kind, 0, 0) + body
    pseudo = src.packed + dst.packed + struct.pack("!II", len(message), 58)
    return message[:2] + struct.pack("!H", checksum(pseudo + message)) + message[4:]


def multicast(address: IPv6Address) -> bytes:
    return b"\x33\x33" + address.packed[12:]


def named(name: str) -> bytes:
    return b"<" + name.encode() + b">"


def option(name: str) -> bytes:
    """The name as an option of neighbour discovery that nobody knows."""
    text = named(name)
    size = (len(text) + 9) // 8
    return struct.pack("!BB", 253, size) + text.ljust(size * 8 - 2, b"\0")


class Sender:
    """Makes the frames; `o` says who is who."""

    def __init__(self, o: dict[str, Any]) -> None:
        self.own, self.victim = mac(o["mac"]), mac(o["victim_mac"])
        self.ip, self.victim_ip, self.router_ip = o["ip"], o["victim_ip"], o["router_ip"]
        self.ll, self.router_ll = link_local(self.own), link_local(mac(o["router_mac"]))
        self.global6 = IPv6Address(IPv6Address("fd77::").packed[:8] + self.ll.packed[8:])

    def arp(
        self, name: str, operation: int, sha: bytes, spa: str, tpa: str, src: bytes | None = None
    ) -> bytes:
        head = struct.pack("!HHBBH", 1, IP4, 6, 4, operation)
        body = head + sha + IPv4Address(spa).packed + bytes(6) + IPv4Address(tpa).packed + named(name)
        return ether(src or self.own, ARP, body)

    def four(
        self, name: str, src: str, src_mac: bytes | None = None, sport: int = 9, dport: int = 9
    ) -> bytes:
        return ether(src_mac or self.own, IP4, ip4(src, udp(sport, dport, named(name))))

    def six(self, payload: bytes, dst: IPv6Address = NODES, src: bytes | None = None) -> bytes:
        return ether(src or self.own, IP6, payload, multicast(dst))

    def discovery(
        self, name: str, kind: int, body: bytes, src: IPv6Address, dst: IPv6Address = NODES
    ) -> bytes:
        return self.six(ip6(src, icmp6(src, kind, body + option(name), dst), proto=58, dst=dst), dst)

    def legitimate(self) -> dict[str, bytes]:
        report = struct.pack("!HHBBH", 0, 1, 4, 0, 0) + NODES.packed
        alert = struct.pack("!BBBBBB", 58, 0, 5, 2, 0, 0) + b"\1\0"
        solicited = IPv6Address(IPv6Address("ff02::1:ff00:0").packed[:13] + self.ll.packed[13:])
        big = udp(9, 9, named("big") + bytes(1400))
        return {
            "ipv4": self.four("ipv4", self.ip),
            "arp request": self.arp("arp request", 1, self.own, self.ip, self.router_ip),
            "arp reply": self.arp("arp reply", 2, self.own, self.ip, self.victim_ip),
            "arp announcement": self.arp("arp announcement", 1, self.own, self.ip, self.ip),
            "arp probe": self.arp("arp probe", 1, self.own, "0.0.0.0", self.ip),
            "fragment": ether(
                self.own, IP4, ip4(self.ip, big[:800], fragment=0x2000).replace(b"<big>", b"<fragment>")
            ),
            "later fragment": ether(self.own, IP4, ip4(self.ip, named("later fragment"), fragment=100)),
            "icmp": ether(self.own, IP4, ip4(self.ip, b"\x08\0\0\0\0\1\0\1" + named("icmp"), proto=1)),
            "multicast": ether(
                self.own, IP4, ip4(self.ip, udp(9, 9, named("multicast"))), mac("01:00:5e:00:00:fb")
            ),
            "port 67 of tcp": ether(
                self.own, IP4, ip4(self.ip, udp(67, 9, named("port 67 of tcp")), proto=6)
            ),
            "link-local": self.six(ip6(self.ll, udp(9, 9, named("link-local")), proto=17)),
            "slaac": self.six(ip6(self.global6, udp(9, 9, named("slaac")), proto=17)),
            "solicitation": self.discovery("solicitation", 135, bytes(4) + self.router_ll.packed, self.ll),
            "advertisement": self.discovery("advertisement", 136, bytes(4) + self.ll.packed, self.ll),
            "dad": self.discovery("dad", 135, bytes(4) + self.ll.packed, ANY6, solicited),
            "router solicitation": self.discovery("router solicitation", 133, bytes(4), ANY6, ROUTERS),
            "listener report": self.six(
                ip6(
                    self.ll,
                    alert + icmp6(self.ll, 143, report + named("listener report"), REPORTS),
                    proto=0,
                    dst=REPORTS,
                ),
                REPORTS,
            ),
            "fragment of ipv6": self.six(
                ip6(
                    self.ll,
                    struct.pack("!BBHI", 17, 0, 1, 7) + udp(9, 9, named("fragment of ipv6")),
                    proto=44,
                )
            ),
        }

    def attacks(self) -> dict[str, bytes]:
        advert = bytes([64, 0]) + struct.pack("!HII", 1800, 0, 0)
        router = self.router_ll
        target = bytes([0xA0, 0, 0, 0]) + router.packed
        two = struct.pack("!BB", 2, 1) + self.own
        ra = icmp6(self.ll, 134, advert + option("ra behind options"))
        hop = icmp6(self.ll, 134, advert + option("ra behind hop-by-hop"))
        padding = b"\1\4\0\0\0\0"
        rogue = self.router_ip
        return {
            "another mac": self.four("another mac", self.ip, self.victim),
            "another address": self.four("another address", self.victim_ip),
            "another mac and address": self.four("another mac and address", self.victim_ip, self.victim),
            "the router's address": self.four("the router's address", self.router_ip),
            "no address": self.four("no address", "0.0.0.0"),
            "address with options": ether(
                self.own,
                IP4,
                ip4(self.victim_ip, udp(9, 9, named("address with options")), options=b"\1\1\1\0"),
            ),
            "arp: the router is here": self.arp(
                "arp: the router is here", 2, self.own, rogue, self.victim_ip
            ),
            "arp: announced": self.arp("arp: announced", 1, self.own, rogue, rogue),
            "arp: another's mac": self.arp("arp: another's mac", 2, self.victim, self.ip, rogue),
            "arp: frame of another": self.arp(
                "arp: frame of another", 2, self.own, self.ip, rogue, self.victim
            ),
            "arp: probe for another": self.arp(
                "arp: probe for another", 1, self.own, "0.0.0.0", self.victim_ip
            ),
            "rarp": ether(self.own, 0x8035, named("rarp")),
            "dhcp server": self.four("dhcp server", self.ip, sport=67, dport=68),
            "dhcp server behind options": ether(
                self.own,
                IP4,
                ip4(self.ip, udp(67, 68, named("dhcp server behind options")), options=b"\1\1\1\0"),
            ),
            "dhcp server in fragments": ether(
                self.own, IP4, ip4(self.ip, udp(67, 68, named("dhcp server in fragments")), fragment=0x2000)
            ),
            "dhcp client without address": self.four(
                "dhcp client without address", "0.0.0.0", sport=68, dport=67
            ),
            "dhcp release of another": self.four("dhcp release of another", self.ip, sport=68, dport=67),
            "dhcpv6 server": self.six(ip6(self.ll, udp(547, 546, named("dhcpv6 server")), proto=17)),
            "router advertisement": self.discovery("router advertisement", 134, advert, self.ll),
            "ra of the router": self.discovery("ra of the router", 134, advert, router),
            "ra behind options": self.six(ip6(self.ll, bytes([58, 0]) + padding + ra, proto=60)),
            "ra behind hop-by-hop": self.six(ip6(self.ll, bytes([58, 0]) + padding + hop, proto=0)),
            "ra in fragments": self.six(
                ip6(
                    self.ll,
                    struct.pack("!BBHI", 60, 0, 1, 7) + bytes([58, 1]) + bytes(14) + named("ra in fragments"),
                    proto=44,
                )
            ),
            "first fragment of an ra": self.six(
                ip6(
                    self.ll,
                    struct.pack("!BBHI", 58, 0, 1, 7) + b"\x86\0\0\0" + named("first fragment of an ra"),
                    proto=44,
                )
            ),
            "redirect": self.discovery("redirect", 137, bytes(4) + self.ll.packed + NODES.packed, self.ll),
            "another ipv6 address": self.six(ip6(router, udp(9, 9, named("another ipv6 address")), proto=17)),
            "a made up ipv6 address": self.six(
                ip6(IPv6Address("fd77::bad"), udp(9, 9, named("a made up ipv6 address")), proto=17)
            ),
            "ipv6 with another mac": self.six(
                ip6(self.ll, udp(9, 9, named("ipv6 with another mac")), proto=17), src=self.victim
            ),
            "nd: the router is here": self.discovery("nd: the router is here", 136, target + two, self.ll),
            "nd: of the router": self.discovery("nd: of the router", 136, target + two, router),
            "nd: nobody may have it": self.discovery(
                "nd: nobody may have it", 135, bytes(4) + router.packed, ANY6
            ),
            "bpdu": ether(
                self.own, 38, b"\x42\x42\x03" + bytes(35) + named("bpdu"), mac("01:80:c2:00:00:00")
            ),
            "lldp": ether(self.own, 0x88CC, named("lldp"), mac("01:80:c2:00:00:0e")),
            "to the bridge group": ether(
                self.own, IP4, ip4(self.ip, udp(9, 9, named("to the bridge group"))), mac("01:80:c2:00:00:0e")
            ),
            "priority tag": ether(
                self.own,
                VLAN,
                struct.pack("!HH", 0xE000, IP4) + ip4(self.victim_ip, udp(9, 9, named("priority tag"))),
            ),
            "vlan": ether(
                self.own, VLAN, struct.pack("!HH", 5, IP4) + ip4(self.ip, udp(9, 9, named("vlan")))
            ),
            "two tags": ether(
                self.own,
                0x88A8,
                struct.pack("!HHHH", 0, VLAN, 0, IP4) + ip4(self.victim_ip, udp(9, 9, named("two tags"))),
            ),
            "snap": ether(
                self.own, 60, b"\xaa\xaa\x03\0\0\0\x08\0" + ip4(self.victim_ip, udp(9, 9, named("snap")))
            ),
            "pppoe": ether(self.own, 0x8863, named("pppoe")),
            "no ip at all": ether(self.own, 0x88B5, named("no ip at all")),
        }


def send(interface: str, order: dict[str, Any]) -> None:
    sender = Sender(order)
    frames = {**sender.legitimate(), **sender.attacks()}
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        sock.bind((interface, 0))
        for name in order["frames"]:
            sock.send(frames[name])
        sock.send(sender.four("end", sender.ip))
    print(json.dumps({"legitimate": list(sender.legitimate()), "attacks": list(sender.attacks())}))


def hear(interface: str) -> None:
    heard: list[str] = []
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        sock.bind((interface, 3))
        sock.setsockopt(
            263, 1, struct.pack("=IHH8s", socket.if_nametoindex(interface), 1, 0, b"")
        )  # promiscuous
        sock.settimeout(20)
        print("hearing", flush=True)
        while "end" not in heard:
            frame, (_, _, kind, *_) = sock.recvfrom(4096)
            if kind != 4 and (match := re.search(rb"<([a-z0-9:' -]+)>", frame)):  # 4: PACKET_OUTGOING
                heard.append(match[1].decode())
    print(json.dumps(heard))


if __name__ == "__main__":
    if sys.argv[1] == "send":
        send(sys.argv[2], json.loads(sys.argv[3]))
    else:
        hear(sys.argv[2])
