"""The takeover on the real kernel: setup and teardown leave no trace, and neither does anything between.

Hosts are described as the `ip` commands an administrator would type.  Each is compared by what `ip`
and /proc/sys tell before and after, to the letter but for the seconds that have passed.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from terwayd import codec
from terwayd.clock import epoch
from terwayd.host import apply
from terwayd.host.drift import drift
from terwayd.host.plan import Plan
from terwayd.kernel.netlink import Netlink
from terwayd.store import TakeoverRecord
from tests.contract.hosts import (
    HOSTS,
    SYSCTLS,
    V4,
    assert_as_before,
    build,
    lifetimes,
    seen,
    settled,
    started,
)
from tests.contract.isolated import GATEWAY, PLAIN, check, ip, run, sysctl, until, wire

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes namespaces: needs root")

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
        assert 0 < standing.milliseconds < 5000
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
    until(settled)
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
