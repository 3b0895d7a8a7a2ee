"""Two hundred hosts that nobody thought of: each is taken over and given back, and is what it was.

Hosts are made of the `ip` commands below; one that the kernel does not take for this host is left out.
"""

from __future__ import annotations

import os
import subprocess

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from terwayd.kernel.netlink import Netlink
from tests.contract.hosts import assert_as_before, seen, settled, started
from tests.contract.isolated import check, ip, run, until, wire

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes namespaces: needs root")

HOSTS = 200

near = st.integers(2, 250)
tables = st.sampled_from(["main", "main", "100", "4242"])
metrics = st.sampled_from(["", " metric 7", " metric 100", " metric 4278198272"])
protos = st.sampled_from(["", " proto static", " proto dhcp", " proto 200"])
prefixes = st.sampled_from([24, 24, 25, 32])

addresses = st.one_of(
    st.builds("addr add 192.0.2.{}/{} dev eth0".format, near, prefixes),
    st.builds("addr add 192.0.2.{}/24 brd + dev eth0 label eth0:{}".format, near, near),
    st.builds("addr add 198.51.100.{}/24 brd + dev eth0 metric {}".format, near, near),
    st.builds("addr add 192.0.2.{}/24 dev eth0 noprefixroute".format, near),
    st.builds("addr add 192.0.2.{} peer 203.0.113.{}/32 dev eth0".format, near, near),
    st.builds("addr add 192.0.2.{}/32 dev eth0 scope {}".format, near, st.sampled_from(["link", "host"])),
    st.builds("addr add 2001:db8::{:x}/{} dev eth0 nodad".format, near, st.sampled_from([64, 128])),
    st.builds(
        "addr add 2001:db8:1::{:x}/64 dev eth0 nodad valid_lft {} preferred_lft 300".format,
        near,
        st.integers(600, 9000),
    ),
    st.builds("addr add 2001:db8::{:x}/64 dev eth0 nodad preferred_lft 0".format, near),
)
routes = st.one_of(
    st.builds("route add default via 192.0.2.{} dev eth0 table {}{}{}".format, near, tables, metrics, protos),
    st.builds(
        "route add 10.{}.0.0/16 via 192.0.2.{} dev eth0 table {}{}".format, near, near, tables, metrics
    ),
    st.builds("route add 10.{}.0.0/16 dev eth0 scope link table {}{}".format, near, tables, protos),
    st.builds("route add 10.{}.0.0/16 via 198.51.100.9 dev eth0 onlink{}".format, near, metrics),
    st.builds("route add 10.{}.0.0/16 via 192.0.2.9 dev eth0 mtu {} advmss 1200".format, near, near),
    st.builds("route add blackhole 10.{}.0.0/16{}".format, near, metrics),
    st.builds(
        "route add 10.{}.0.0/16 nexthop via 192.0.2.{} dev eth0 weight 3 nexthop via 192.0.2.9 dev eth0".format,
        near,
        near,
    ),
    st.builds("route append 10.9.0.0/16 via 192.0.2.{} dev eth0".format, near),
    st.builds("-6 route add default via 2001:db8::{:x} dev eth0{}".format, near, metrics),
    st.builds(
        "-6 route add 2001:db8:{:x}::/48 via fe80::{:x} dev eth0 table {}{}".format,
        near,
        near,
        tables,
        protos,
    ),
    st.builds("-6 route add 2001:db8:{:x}::/48 dev eth0 expires {}".format, near, st.integers(600, 9000)),
    st.builds(
        "-6 route add 2001:db8:{:x}::/48 nexthop via fe80::{:x} dev eth0 nexthop via fe80::1 dev eth0".format,
        near,
        near,
    ),
)
others = st.one_of(
    st.builds("rule add from 192.0.2.{} table 100 priority {}".format, near, st.integers(1000, 2000)),
    st.builds("-6 rule add from 2001:db8::{:x} table 100 priority {}".format, near, st.integers(1000, 2000)),
    st.builds("rule add iif eth0 table 100 priority {}".format, st.integers(2001, 3000)),
    st.builds("-6 rule add oif eth0 table 100 priority {}".format, st.integers(2001, 3000)),
    st.builds("neigh add proxy 192.0.2.{} dev eth0".format, near),
    st.builds("neigh add 192.0.2.{0} lladdr 02:00:00:00:00:{0:02x} dev eth0 nud permanent".format, near),
    st.builds("link set eth0 mtu {}".format, st.integers(1300, 1500)),
)
hosts = st.tuples(
    st.lists(addresses, min_size=1, max_size=6), st.lists(routes, max_size=8), st.lists(others, max_size=4)
)


def generated(count: str) -> None:
    tried = 0

    @settings(  # type: ignore[misc]
        max_examples=int(count),
        deadline=None,
        database=None,
        phases=[Phase.generate],  # a shrunk host is no clearer than what `ip` says of it
        suppress_health_check=list(HealthCheck),
    )
    @given(hosts)  # type: ignore[misc]
    def there_and_back(host: tuple[list[str], list[str], list[str]]) -> None:
        nonlocal tried
        tried += 1
        wire()
        try:
            for command in [line for part in host for line in part]:
                subprocess.run(["ip", *command.split()], capture_output=True, check=False)
            until(settled)
            before = seen()
            takeover, store = started()
            with Netlink() as netlink:
                assert takeover.setup(netlink).changed
                assert " inet" not in run("ip", "addr", "show", "dev", "eth0")
                assert takeover.teardown(netlink).changed
            store.close()
            if sorted(before) != sorted(
                seen()
            ):  # of equal addresses, the order in the local table may change
                assert_as_before(before)
        finally:
            subprocess.run(["ip", "link", "del", "mybr0"], capture_output=True, check=False)
            ip("link del eth0", "rule flush", "rule add table main priority 32766", "-6 rule flush")
            ip(
                "rule add table default priority 32767",
                "-6 rule add table main priority 32766",
                "netns del lan",
            )
            for family in ("-4", "-6"):
                for table in ("main", "100", "4242"):
                    flush = ["ip", family, "route", "flush", "table", table]
                    subprocess.run(flush, capture_output=True, check=False)

    there_and_back()
    print(tried)


def test_generated_hosts_come_back_as_they_were() -> None:
    assert int(check(__name__, "generated", str(HOSTS), timeout=600).split()[-1]) >= HOSTS
