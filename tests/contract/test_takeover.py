"""The takeover on the real kernel: setup and teardown leave no trace, and neither does anything between.

Hosts are described as the `ip` commands an administrator would type.  Each is compared by what `ip`
and /proc/sys tell before and after, to the letter but for the seconds that have passed.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import os
import re
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pyroute2.netlink.exceptions import NetlinkError

from terwayd import codec
from terwayd.clock import epoch
from terwayd.config import Config, HostConfig
from terwayd.errors import HostError, Refused, RolledBack, TerwayError
from terwayd.host import apply
from terwayd.host.drift import drift
from terwayd.host.moves import DelAddress
from terwayd.host.plan import Plan
from terwayd.host.takeover import Takeover
from terwayd.kernel.netlink import Netlink
from terwayd.store import Store, TakeoverRecord
from tests.contract.isolated import GATEWAY, PLAIN, check, ip, run, sysctl, until, wire

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes namespaces: needs root")

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


# What runs in namespaces of its own.


def leaves_no_trace(name: str) -> None:
    """Step by step there and back; on the way the host reaches others as before."""
    before, left = build(name), lifetimes()
    reached = routes_to_the_world()
    takeover, store = started()
    with Netlink() as netlink:
        plan = takeover.plan_setup(netlink)
        apply.apply(netlink, plan.steps)
        assert drift(plan, netlink.observe()).found == ()
        for family in ("-4", "-6"):
            rules = run("ip", family, "rule").splitlines()
            named = {rule.replace("eth0", "mybr0") for rule in rules if " eth0" in rule}
            assert named <= set(rules), "what comes in by the bridge is held to the same rules"
        assert "master mybr0" in run("ip", "-d", "link", "show", "eth0")
        assert " inet" not in run("ip", "addr", "show", "dev", "eth0")
        assert "dev eth0" not in run("ip", "route", "show", "table", "all")
        assert routes_to_the_world() == reached
        store.write_takeover(TakeoverRecord(epoch().boot_id, "undoing", codec.encode(plan)))
        assert codec.decode(Plan, codec.encode(plan)) == plan
        assert takeover.rescue(netlink, "")
        assert_as_before(before)
        assert routes_to_the_world() == reached
        spent = [was - now for was, now in zip(left, lifetimes(), strict=True)]
        assert all(-1 <= seconds <= 15 for seconds in spent), spent


def done_as_printed(name: str) -> None:
    """The printed plan, typed into a shell, does the same as its steps; so does the printed way back."""
    before = build(name)
    takeover, store = started()
    with Netlink() as netlink:
        plan = takeover.plan_setup(netlink)
        apply.apply(netlink, plan.steps)
        during = seen()
        store.write_takeover(TakeoverRecord(epoch().boot_id, "undoing", codec.encode(plan)))
        back = takeover.plan_teardown(netlink).steps
        assert takeover.rescue(netlink, "")
    for steps, expected in ((plan.steps, during), (back, before)):
        for step in steps:
            typed(str(step))
        assert_as_before(expected, "done as printed it is another")


def typed(command: str) -> None:
    """What is there already, or gone already, is what the command is for."""
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 0 or "File exists" in done.stderr, f"{command}:\n{done.stderr}"


def routes_to_the_world() -> list[tuple[str, ...]]:
    """By which gateway and with which source address the host talks to others."""
    found = []
    for target in ("203.0.113.9", "10.1.2.3", "192.0.2.99", "2001:db8:ffff::9", "2001:db8::99"):
        done = subprocess.run(["ip", "route", "get", target], capture_output=True, text=True, check=False)
        words = done.stdout.replace("mybr0", "eth0").split()
        found.append(tuple(f"{w} {words[n + 1]}" for n, w in enumerate(words) if w in {"via", "dev", "src"}))
    return found


def goes_and_comes_back(name: str) -> None:
    before = build(name)
    takeover, store = started()
    with Netlink() as netlink:
        assert takeover.plan_teardown(netlink).steps == ()
        standing = takeover.setup(netlink)
        assert standing.changed
        assert (standing.uplink, standing.bridge) == ("eth0", "mybr0")
        assert standing.steps > 10
        assert 0 < standing.milliseconds < 1000
        assert store.takeover() is not None
        assert not takeover.setup(netlink).changed, "it stands already"
        assert takeover.plan_setup(netlink).steps == ()
        assert not takeover.rescue(netlink, ""), "all is well"
        assert run("ping", "-c1", "-W1", GATEWAY)
        assert takeover.plan_teardown(netlink).steps
        assert takeover.teardown(netlink).changed
        assert_as_before(before)
        assert run("ping", "-c1", "-W1", GATEWAY)
        assert store.takeover() is None
        assert not takeover.teardown(netlink).changed
        assert takeover.plan_teardown(netlink).steps == ()


def with_settings() -> None:
    wire(1400)
    for key, value in SYSCTLS.items():
        family = (
            "ipv4" if Path("/proc/sys/net/ipv4/conf/eth0", key).exists() and key != "accept_dad" else "ipv6"
        )
        sysctl(f"net/{family}/conf/eth0/{key}", value)
    ip(*PLAIN)
    before = seen()
    takeover, _ = started()
    with Netlink() as netlink:
        takeover.setup(netlink)
        assert "mtu 1400" in run("ip", "link", "show", "mybr0")
        for key in ("ipv4/conf/{}/rp_filter", "ipv4/conf/{}/arp_ignore", "ipv6/conf/{}/accept_ra"):
            there = Path("/proc/sys/net", key.format("mybr0")).read_text().strip()
            assert there == SYSCTLS[key.rpartition("/")[2]], key
        takeover.teardown(netlink)
    assert_as_before(before)


def without_ipv6(where: str) -> None:
    wire()
    for name in where.split(","):
        sysctl(f"net/ipv6/conf/{name}/disable_ipv6", "1")
    ip(*V4)
    before = seen()
    takeover, _ = started()
    with Netlink() as netlink:
        takeover.setup(netlink)
        assert "inet6" not in run("ip", "addr", "show", "dev", "mybr0")
        takeover.teardown(netlink)
    assert_as_before(before)


def undone_after_every_prefix(name: str) -> None:
    before = build(name)
    takeover, store = started()
    with Netlink() as netlink:
        steps = takeover.plan_setup(netlink).steps
        for count in range(len(steps) + 1):
            wanted = takeover.plan_setup(netlink)
            store.write_takeover(TakeoverRecord(epoch().boot_id, "applying", codec.encode(wanted)))
            apply.apply(netlink, wanted.steps[:count])
            assert takeover.rescue(netlink, "")
            assert store.takeover() is None
            assert_as_before(before, f"after {count} steps, the last {wanted.steps[count - 1]}")
        assert not takeover.rescue(netlink, "")


def taken_down_after_every_prefix(name: str) -> None:
    """A teardown that a crash cut short goes on where it was."""
    before = build(name)
    takeover, store = started()
    with Netlink() as netlink:
        for count in range(len(takeover.plan_setup(netlink).steps)):
            plan = takeover.plan_setup(netlink)
            apply.apply(netlink, plan.steps)
            store.write_takeover(TakeoverRecord(epoch().boot_id, "undoing", codec.encode(plan)))
            apply.apply(netlink, takeover.plan_teardown(netlink).steps[:count])
            assert takeover.rescue(netlink, "")
            assert_as_before(before, f"after {count} steps of the way back")


def rolled_back(prepare: Callable[[], None], words: str) -> None:
    build("noprefixroute")
    prepare()
    before = seen()
    takeover, store = started()
    with Netlink() as netlink:
        with pytest.raises(RolledBack, match=words) as caught:
            takeover.setup(netlink)
        assert caught.value.hint
        assert store.takeover() is None
        assert_as_before(before)
        assert not takeover.teardown(netlink).changed


def refused_in_the_middle() -> None:
    """A route whose gateway the kernel would not take any more: it says no half-way."""
    stale = (
        *("addr add 198.51.100.5/24 dev eth0", "route add 10.7.0.0/16 via 198.51.100.1"),
        *("addr del 198.51.100.5/24 dev eth0", "-6 route add 2001:db8:7::/48 via fe80::1 dev eth0"),
    )
    rolled_back(lambda: ip(*stale), r"ip route prepend 10\.7\.0\.0/16 dev mybr0: Network is unreachable")


def refused_for_a_route(command: str) -> None:
    build("plain")
    ip("nexthop add id 7 via 192.0.2.2 dev eth0", command)
    before = seen()
    takeover, store = started()
    with Netlink() as netlink:
        with pytest.raises(Refused, match=r"the route .* terwayd does not move") as caught:
            takeover.setup(netlink)
        assert caught.value.hint
        assert store.takeover() is None
    assert_as_before(before)


def refused_as_it_is(words: str, *commands: str) -> None:
    build("plain")
    ip(*commands)
    until(
        lambda: ("NO-CARRIER" in run("ip", "link", "show", "eth0")) == ("linkdown" in batch(["-6"], "route"))
    )
    before = seen()
    takeover, store = started()
    with Netlink() as netlink:
        with pytest.raises(HostError, match=words) as caught:
            takeover.setup(netlink)
        assert caught.value.hint
        assert store.takeover() is None
    assert_as_before(before)


def names_it_elsewhere() -> None:
    """Told by the plan and, as it is done, in the log; and it is as is told."""
    build("plain")
    rule = "table inet f { chain i { type filter hook input priority 0; iifname eth0 tcp dport 99 drop; }; }"
    nft(rule)
    listener = socket.create_server(("", 77))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
    takeover, _ = started()
    with Netlink() as netlink:
        told = "\n".join(takeover.plan_setup(netlink).warnings)
        assert (
            'the chain i of inet f names eth0, and sees what comes in by the bridge no more: iifname "eth0"'
            in told
        )
        assert re.search(r"\(PID \d+\) listens on 0\.0\.0\.0%eth0:77 alone", told)
        takeover.setup(netlink)
        connect = "import socket; socket.create_connection(('192.0.2.10', 77), 0.5)"
        done = subprocess.run(
            ["ip", "netns", "exec", "lan", "/usr/bin/python3", "-c", connect],
            capture_output=True,
            check=False,
        )
        assert done.returncode == 1
        takeover.teardown(netlink)


def refused_at_every_call(action: str) -> None:
    """Each request to the kernel in turn is answered with an error, be it a change or a question."""
    before = build("noprefixroute")
    at = 0
    while True:
        at += 1
        takeover, store = started()
        with Netlink() as netlink:
            if action == "teardown":
                takeover.setup(netlink)
            with answered_with_an_error(netlink, at) as asked, contextlib.suppress(TerwayError):
                takeover.setup(netlink) if action == "setup" else takeover.teardown(netlink)
            if asked() >= at and action == "setup" and store.takeover() is None:
                assert_as_before(before, f"refused at call {at}")
            elif takeover.standing(netlink) is not None or store.takeover() is not None:
                assert run("ping", "-c1", "-W1", GATEWAY), f"refused at call {at}"
                assert takeover.teardown(netlink).changed
            assert_as_before(before, f"given back after call {at}")
            assert run("ping", "-c1", "-W1", GATEWAY), f"given back after call {at}"
        store.close()
        if asked() < at:
            break
    print(at - 1)


@contextlib.contextmanager
def answered_with_an_error(netlink: Netlink, at: int) -> Iterator[Callable[[], int]]:
    """Have the kernel's answer to request number `at` be ENOMEM; how many there have been."""
    count = 0
    real = netlink._ipr.nlm_request

    def request(*arguments: object, **options: object) -> object:
        nonlocal count
        count += 1
        if count == at:
            raise NetlinkError(errno.ENOMEM, "refused for the test")
        return real(*arguments, **options)

    netlink._ipr.nlm_request = request
    yield lambda: count
    netlink._ipr.nlm_request = real


def silent_afterwards() -> None:
    """As a switch with port security: from a port of a bridge no ARP comes through."""
    rules = "table bridge t { chain o { type filter hook output priority 0; ether type arp drop; }; }"
    rolled_back(lambda: nft(rules), rf"the gateway {GATEWAY} answered before but does not on mybr0")


def silent_afterwards_by_ipv6() -> None:
    rules = (
        "table bridge t { chain o { type filter hook output priority 0;"
        " icmpv6 type nd-neighbor-solicit drop; }; }"
    )
    rolled_back(lambda: nft(rules), r"the gateway 2001:db8::1 answered before but does not on mybr0")


def nft(rules: str) -> None:
    run("nft", rules)


def silent_before() -> None:
    """Who did not answer before proves nothing."""
    wire()
    ip("addr add 192.0.2.10/24 dev eth0", "route add default via 192.0.2.99 dev eth0")
    with Netlink() as netlink:
        assert started()[0].setup(netlink).changed


def of_an_earlier_boot() -> None:
    before = build("plain")
    takeover, store = started()
    with Netlink() as netlink:
        plan = codec.encode(takeover.plan_setup(netlink))
        for state in ("applying", "up", "undoing", "pending"):
            store.write_takeover(TakeoverRecord("another-boot", state, plan))
            assert takeover.standing(netlink) is None
            assert not takeover.rescue(netlink, "")
            assert not takeover.teardown(netlink).changed
            assert_as_before(before)
        store.write_takeover(TakeoverRecord("another-boot", "up", plan))
        assert takeover.setup(netlink).changed


def of_another_process() -> None:
    before = build("noprefixroute")
    with Netlink() as netlink:
        first, store = started()
        first.setup(netlink)
        store.close()
    done = subprocess.run(["ip", "link", "add", "more0", "type", "veth"], check=True)
    assert done.returncode == 0
    ip("link set more0 master mybr0")
    with Netlink() as netlink:
        second, _ = started()
        assert second.standing(netlink) is not None
        assert not second.setup(netlink).changed
        ip("link del more0")
        assert second.teardown(netlink).changed
    assert_as_before(before)


def cannot_be_given_back() -> None:
    """What the kernel does not take back is told; nothing is thrown away, and the host is on the LAN still."""
    build("plain")
    takeover, store = started()
    with Netlink() as netlink:
        takeover.setup(netlink)
        record = store.takeover()
        assert record is not None
        plan = codec.decode(Plan, record.plan)
        steps = tuple(
            replace(step, address=replace(step.address, dev="gone0"))
            if isinstance(step, DelAddress)
            else step
            for step in plan.steps
        )
        store.write_takeover(replace(record, plan=codec.encode(replace(plan, steps=steps))))
        with pytest.raises(
            HostError, match=r"eth0 cannot get back what it had: .*there is no interface gone0"
        ):
            takeover.teardown(netlink)
        assert store.takeover() is not None
        run("ping", "-c1", "-W1", GATEWAY)


# The tests.

ME = "tests.contract.test_takeover"


@pytest.mark.parametrize("name", HOSTS)
def test_a_takeover_leaves_no_trace(name: str) -> None:
    check(ME, "leaves_no_trace", name)


PRINTED = [
    *("plain", "secondaries and labels", "peer addresses", "tables and rules", "routes of every kind"),
    *("rules that name the NIC", "proxies"),
    *("metrics of routes", "onlink", "multipath", "multipath of IPv6", "as by router advertisements"),
]


@pytest.mark.parametrize("name", PRINTED)
def test_the_printed_plan_does_the_same(name: str) -> None:
    check(ME, "done_as_printed", name)


@pytest.mark.parametrize("name", ["plain", "as by router advertisements"])
def test_a_host_goes_under_the_bridge_and_comes_back(name: str) -> None:
    check(ME, "goes_and_comes_back", name)


def test_settings_and_mtu() -> None:
    check(ME, "with_settings")


@pytest.mark.parametrize("where", ["eth0", "default,eth0", "all"])
def test_without_ipv6(where: str) -> None:
    check(ME, "without_ipv6", where)


@pytest.mark.parametrize("name", ["noprefixroute"])
def test_a_takeover_cut_short_is_undone(name: str) -> None:
    check(ME, "undone_after_every_prefix", name)


@pytest.mark.long
@pytest.mark.parametrize("action", ["setup", "teardown"])
def test_an_error_of_every_netlink_call(action: str) -> None:
    calls = int(check(ME, "refused_at_every_call", action, timeout=300).split()[-1])
    print(f"{action}: each of {calls} calls refused")
    assert calls > 40


def test_a_teardown_cut_short_is_finished() -> None:
    check(ME, "taken_down_after_every_prefix", "plain")


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_route_that_cannot_be_carried_over_is_refused(kind: str) -> None:
    check(ME, "refused_for_a_route", FOREIGN[kind])


@pytest.mark.parametrize(
    ("words", "commands"),
    [
        ("eth0 carries mv0, which would fall silent", ("link add mv0 link eth0 type macvlan",)),
        (
            "eth0 is a port of the bridge other0 already",
            ("link add other0 type bridge", "link set eth0 master other0"),
        ),
        ("eth0 has no carrier", ("-n lan link set lan0 down",)),
        ("eth0 has no address", ("addr flush dev eth0 scope global",)),
    ],
)
def test_a_nic_that_must_not_be_taken_is_left_as_it_is(words: str, commands: tuple[str, ...]) -> None:
    check(ME, "refused_as_it_is", words, *commands)


@pytest.mark.parametrize(
    "name",
    [
        "names_it_elsewhere",
        *("refused_in_the_middle", "silent_afterwards", "silent_afterwards_by_ipv6", "silent_before"),
        *("of_an_earlier_boot", "of_another_process", "cannot_be_given_back"),
    ],
)
def test_what_goes_wrong(name: str) -> None:
    check(ME, name)
