"""The takeover on the real kernel where something goes wrong: refused, cut short, undone; nothing is left of it."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from pyroute2.netlink.exceptions import NetlinkError

from terwayd import codec
from terwayd.clock import epoch
from terwayd.errors import HostError, KernelError, Refused, RolledBack, TerwayError
from terwayd.host import apply
from terwayd.host.moves import DelAddress
from terwayd.host.plan import Plan
from terwayd.kernel.netlink import Netlink
from terwayd.kernel.nftables import Nftables
from terwayd.store import TakeoverRecord
from tests.contract.hosts import (
    FOREIGN,
    assert_as_before,
    batch,
    build,
    seen,
    settled,
    started,
)
from tests.contract.isolated import GATEWAY, check, ip, run, until, wire

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes namespaces: needs root")

# What runs in namespaces of its own.


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
    until(settled)
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


def untouched(error: type[HostError], words: str) -> None:
    """The takeover says why it must not be done, and nothing was."""
    before = seen()
    takeover, store = started()
    with Netlink() as netlink:
        with pytest.raises(error, match=words) as caught:
            takeover.setup(netlink)
        assert caught.value.hint
        assert store.takeover() is None
    assert_as_before(before)


def refused_for_a_route(command: str) -> None:
    build("plain")
    ip("nexthop add id 7 via 192.0.2.2 dev eth0", command)
    untouched(Refused, r"the route .* terwayd does not move")


def refused_as_it_is(words: str, *commands: str) -> None:
    build("plain")
    ip(*commands)
    until(
        lambda: ("NO-CARRIER" in run("ip", "link", "show", "eth0")) == ("linkdown" in batch(["-6"], "route"))
    )
    untouched(HostError, words)


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


def goes_on_to_the_bridge() -> None:
    """What comes in on the NIC cannot be led to it again: tried until it can, or else told, and nothing is thrown away."""
    before = build("plain")
    takeover, store = started()
    with Netlink() as netlink:
        with refusing_to_delete(tables=1), pytest.raises(RolledBack, match="nft delete table netdev terwayd"):
            takeover.setup(netlink)
        assert store.takeover() is None
        assert_as_before(before)
        takeover.setup(netlink)
        with (
            refusing_to_delete(tables=99),
            pytest.raises(HostError, match="what comes in on eth0 still goes on to mybr0") as caught,
        ):
            takeover.teardown(netlink)
        assert caught.value.hint == "nft delete table netdev terwayd; terwayctl teardown"
        assert store.takeover() is not None
        assert takeover.teardown(netlink).changed
        assert store.takeover() is None
    assert run("nft", "list", "tables") == ""
    assert_as_before(before)
    run("ping", "-c1", "-W1", GATEWAY)


@contextlib.contextmanager
def refusing_to_delete(tables: int) -> Iterator[None]:
    """Have the kernel's answer to so many requests to delete a table of nftables be ENOMEM."""
    real, left = Nftables.delete_table, tables

    def delete_table(self: Nftables, family: str, table: str) -> None:
        nonlocal left
        left -= 1
        if left >= 0:
            raise KernelError(f"nft delete table {family} {table}: Cannot allocate memory", errno.ENOMEM)
        real(self, family, table)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Nftables, "delete_table", delete_table)
        yield


# The tests.

ME = "tests.contract.test_takeover_undone"


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
        "goes_on_to_the_bridge",
    ],
)
def test_what_goes_wrong(name: str) -> None:
    check(ME, name)
