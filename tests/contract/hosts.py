"""Hosts as an administrator would type them for ip(8), and what such a host looks like to ip(8) and in /proc/sys."""

from __future__ import annotations

import difflib
import re
import subprocess
import time
from pathlib import Path

from terwayd.config import Config, HostConfig
from terwayd.host.takeover import Takeover
from terwayd.store import Store
from tests.contract.isolated import GATEWAY, PLAIN, ip, run, until, wire

CONFIG = Config(host=HostConfig(uplink="eth0", verify_timeout=0.5))
V4 = PLAIN[:2]

HOSTS: dict[str, tuple[str, ...]] = {
    "plain": PLAIN,
    "ipv4 alone": V4,
    "ipv6 alone": PLAIN[2:],
    "no gateway": (PLAIN[0], PLAIN[2]),
    "secondaries and labels": (
        *PLAIN,
        "addr add 192.0.2.11/24 brd + dev eth0",
        "addr add 192.0.2.12/24 dev eth0 label eth0:a",
        "addr add 198.51.100.5/24 brd + dev eth0 label eth0:web-server",
        "addr add 198.51.100.6/24 dev eth0 label eth0:b",
        "addr add 2001:db8::11/64 dev eth0 nodad",
        "addr add 2001:db8:1::11/128 dev eth0 nodad",
    ),
    "peer addresses": (
        f"addr add 192.0.2.10 peer {GATEWAY}/32 dev eth0",
        "addr add 192.0.2.20 peer 198.51.100.7/24 dev eth0",
        "addr add 2001:db8::20 peer 2001:db8::1/128 dev eth0 nodad",
        f"route add default via {GATEWAY} dev eth0",
    ),
    "scopes and metrics of addresses": (
        "addr add 192.0.2.10/24 brd + dev eth0 metric 50",
        "addr add 192.0.2.20/32 dev eth0 scope link",
        "addr add 192.0.2.21/32 dev eth0 scope host",
        "addr add 2001:db8::10/64 dev eth0 nodad metric 77",
        f"route add default via {GATEWAY} dev eth0 metric 7",
    ),
    "noprefixroute": (
        "addr add 192.0.2.10/24 brd + dev eth0 noprefixroute",
        "addr add 2001:db8::10/64 dev eth0 nodad noprefixroute",
        "route add 192.0.2.0/24 dev eth0 proto kernel scope link src 192.0.2.10 metric 100",
        "-6 route add 2001:db8::/64 dev eth0 proto kernel metric 100",
        "-6 route add default via 2001:db8::1 dev eth0 metric 100",
        f"route add default via {GATEWAY} dev eth0 proto dhcp metric 100",
    ),
    "tables and rules": (
        *PLAIN,
        "rule add from 192.0.2.10 table 100 priority 1000",
        "rule add fwmark 7 table 4242 priority 1001",
        "-6 rule add from 2001:db8::10 table 100 priority 1000",
        "route add 192.0.2.0/24 dev eth0 table 100 scope link src 192.0.2.10",
        "route add default via 192.0.2.2 dev eth0 table 100 proto static",
        "route add 10.0.0.0/8 via 192.0.2.3 dev eth0 table 4242 metric 5",
        "-6 route add default via fe80::1 dev eth0 table 100",
        "route add blackhole 10.66.0.0/16",
        "route add unreachable 10.67.0.0/16 metric 4278198272",
    ),
    "rules that name the NIC": (
        *PLAIN,
        "route add default via 192.0.2.2 dev eth0 table 100",
        "rule add iif eth0 table 100 priority 900",
        "rule add not from 10.0.0.0/8 iif eth0 fwmark 3/0xff ipproto tcp dport 80-90 table 4242 priority 901",
        "rule add oif eth0 uidrange 7-9 table main suppress_prefixlength 0 priority 902 protocol static",
        "-6 rule add iif eth0 to 2001:db8:7::/48 unreachable priority 903",
    ),
    "routes of every kind": (
        *PLAIN,
        "addr add 192.0.2.11/24 dev eth0",
        "route add 10.1.0.0/16 via 192.0.2.2 src 192.0.2.11 metric 50 proto static",
        "route add 10.1.0.0/16 via 192.0.2.3 metric 60",
        "route add 10.2.0.0/16 dev eth0 scope link",
        "route add 10.2.0.7/32 dev eth0 scope link src 192.0.2.11",
        "route add 10.4.0.0/16 tos 0x10 via 192.0.2.2",
        "route add 10.5.0.0/16 via inet6 fe80::1 dev eth0",
        "route add 224.0.0.0/4 dev eth0",
        "-6 route add 2001:db8:7::/48 via fe80::1 dev eth0 pref high",
        "-6 route add 2001:db8:8::/48 via fe80::1 dev eth0 src 2001:db8::10 metric 9",
        "-6 route add 2001:db8:9::/48 dev eth0",
    ),
    "metrics of routes": (
        *PLAIN,
        "route add 10.1.0.0/16 via 192.0.2.2 mtu 1400 advmss 1200 window 4096 initcwnd 20 quickack 1",
        "route add 10.2.0.0/16 via 192.0.2.2 mtu lock 1300 features ecn",
        "route add 10.3.0.0/16 via 192.0.2.2 congctl reno rto_min 100ms",
        "-6 route add 2001:db8:7::/48 via fe80::1 dev eth0 mtu 1400 hoplimit 7",
    ),
    "onlink": (
        "addr add 192.0.2.10/32 dev eth0",
        f"route add default via {GATEWAY} dev eth0 onlink",
        "addr add 2001:db8::10/128 dev eth0 nodad",
        "-6 route add default via fe80::1 dev eth0 onlink",
    ),
    "multipath": (
        *PLAIN,
        "route add 10.2.0.0/16 nexthop via 192.0.2.2 weight 3 nexthop via 192.0.2.3 dev eth0 weight 1",
        "route add 10.3.0.0/16 nexthop via 198.51.100.1 dev eth0 onlink nexthop via 192.0.2.3",
    ),
    "multipath of IPv6": (
        *PLAIN,
        "-6 route add 2001:db8:7::/48 nexthop via fe80::1 dev eth0 nexthop via fe80::2 dev eth0 weight 2",
    ),
    "two of the same metric": (*PLAIN, "route append default via 192.0.2.2 dev eth0"),
    "as by router advertisements": (
        *V4,
        "addr add 2001:db8::5/64 dev eth0 nodad noprefixroute mngtmpaddr valid_lft 600 preferred_lft 300",
        "-6 route add 2001:db8::/64 dev eth0 proto kernel metric 256 expires 600",
        "-6 route add default via fe80::1 dev eth0 proto ra metric 1024 expires 1800 pref medium",
    ),
    "an address that is deprecated": (
        *PLAIN,
        "addr add 2001:db8::66/64 dev eth0 nodad preferred_lft 0",
    ),
    "neighbours": (
        *PLAIN,
        "neigh add 192.0.2.77 lladdr 02:00:00:00:00:77 dev eth0 nud permanent",
        "neigh add 2001:db8::77 lladdr 02:00:00:00:00:77 dev eth0 nud permanent",
    ),
    "proxies": (*PLAIN, "neigh add proxy 192.0.2.78 dev eth0", "neigh add proxy 2001:db8::78 dev eth0"),
    "a name and a mode": (*PLAIN, "link set eth0 alias office", "link set eth0 promisc on"),
}
# Routes that say more than terwayd carries over: they must not lose it on the way.
FOREIGN = {
    "from": "-6 route add default from 2001:db8:1::/48 via fe80::1 dev eth0 metric 7",
    "realm": "route add 10.1.0.0/16 via 192.0.2.2 realm 5",
    "encap": "route add 10.2.0.0/16 encap ip id 7 dst 192.0.2.3 dev eth0",
    "nexthop object": "route add 10.3.0.0/16 nhid 7",
}
SYSCTLS = {
    "rp_filter": "1",
    "arp_ignore": "2",
    "forwarding": "1",
    "accept_ra": "2",
    "addr_gen_mode": "1",
    "accept_dad": "0",
    "use_tempaddr": "2",
}


# What a test looks at.


def seen() -> list[str]:
    """All that `ip` tells of the host, and eth0's settings."""
    text = batch(
        ["-d"],
        "addr show",
        "rule show",
        "route show table all",
        "neigh show nud permanent",
        "neigh show proxy",
    )
    text += batch(["-6"], "rule show", "route show table all", "neigh show proxy")
    text += "\n".join(sorted(run("ip", "maddr").splitlines())) + "\n"  # in no order
    for family in ("ipv4", "ipv6"):
        for file in sorted(Path(f"/proc/sys/net/{family}/conf/eth0").iterdir()):
            try:
                text += f"{family} {file.name} {file.read_text()}"
            except OSError:  # a secret that is not set
                continue
    text = re.sub(r"\b(valid_lft|preferred_lft|expires) [1-9]\d*sec", r"\1 some time", text)
    text = re.sub(r"(twdhcp0?@.*\n +link/ether) \S+", r"\1 some", text)
    text = re.sub(r"^\d+: ?(?=\s*(mybr0|twdhcp))|_timer +[\d.]+", "", text, flags=re.MULTILINE)
    return [re.sub(r" (error|users|used|age) -?\d+", "", line).rstrip() for line in text.splitlines()]


def batch(options: list[str], *commands: str) -> str:
    done = subprocess.run(
        ["ip", *options, "-batch", "-"], input="\n".join(commands), capture_output=True, text=True, check=True
    )
    return done.stdout


def difference(before: list[str], after: list[str]) -> str:
    return "\n".join(difflib.unified_diff(before, after, "before", "after", lineterm="", n=1))


def assert_as_before(before: list[str], what: str = "the host is not as it was") -> None:
    """The kernel makes some local routes of IPv6 addresses a moment after these."""
    end = time.monotonic() + 1.0
    while (after := plain(seen())) != plain(before) and time.monotonic() < end:
        time.sleep(0.02)
    assert not (changed := difference(plain(before), after)), f"{what}:\n{changed}"


def plain(lines: list[str]) -> list[str]:
    """Without the flag that only tells how an address was added."""
    return [line.replace(" nodad", "") for line in lines]


def lifetimes() -> list[int]:
    """The seconds that addresses and routes have left, in the order in which `ip` shows them."""
    text = run("ip", "addr", "show", "dev", "eth0") + run("ip", "-6", "route")
    return [int(seconds) for seconds in re.findall(r"(?:valid_lft|preferred_lft|expires) (\d+)sec", text)]


def build(name: str, mtu: int = 1500) -> list[str]:
    """Make the host and tell what it looks like."""
    wire(mtu)
    ip(*HOSTS[name])
    until(settled)
    return seen()


def settled() -> bool:
    shown = run("ip", "-6", "-o", "addr", "show", "dev", "eth0")
    own = re.findall(r"inet6 ([0-9a-f:]+)", shown)
    return set(own) <= set(run("ip", "-6", "route", "show", "table", "local").split())


def started(config: Config = CONFIG) -> tuple[Takeover, Store]:
    store = Store()
    return Takeover(store, config), store
