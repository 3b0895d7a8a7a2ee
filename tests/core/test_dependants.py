"""What depends on the NIC beside its addresses: refused where it is the root filesystem, told where it stays behind."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from terwayd.errors import HostError, Refused
from terwayd.host.dependants import Root, ready, refuse_root, root, warnings
from tests.core.hosts import ETH0, ETH1, LO, address, connected, host, route

LOCAL = "/dev/sda1 / ext4 rw 0 0\nproc /proc proc rw 0 0\nserver:/home /home nfs4 rw,addr=192.0.2.5 0 0\n"
NFS = "192.0.2.5:/root / nfs4 rw,vers=4.2,addr=192.0.2.5,clientaddr=192.0.2.10 0 0\n"
ISCSI = "/sys/devices/platform/host2/session1/target2:0:0/2:0:0:1/block/sdb/sdb1"
RULESET = """
table inet filter {
	chain input {
		type filter hook input priority filter; policy accept;
		iifname "eth0" tcp dport 22 accept
		iifname "eth01" drop
		iifname { "eth0", "wlan0" } udp dport 53 accept
	}
}
table netdev fast {
	chain in {
		type filter hook ingress device "eth0" priority -300; policy accept;
	}
}
"""
IPTABLES = (
    "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -i eth0 -p tcp -j ACCEPT\n-A INPUT -i eth1 -j DROP\nCOMMIT\n"
)
SOCKETS = """udp UNCONN 0 0 192.0.2.10%eth0:123 0.0.0.0:* users:(("ntpd",pid=7,fd=3))
tcp LISTEN 0 128 0.0.0.0:22 0.0.0.0:* users:(("sshd",pid=8,fd=3))
udp UNCONN 0 0 192.0.2.10%eth0:68 0.0.0.0:* users:(("systemd-network",pid=6,fd=3))
tcp LISTEN 0 128 *%eth1:80 *:* users:(("nginx",pid=9,fd=3))
"""
IGMP = """Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter
1\tlo        :     1      V3
\t\t\t\t010000E0     1 0:00000000\t\t0
2\teth0      :     2      V3
\t\t\t\tFB0000E0     1 0:00000000\t\t0
\t\t\t\t010000E0     1 0:00000000\t\t0
"""


@pytest.mark.parametrize(
    ("mounts", "cmdline", "device", "found"),
    [
        (LOCAL, "root=/dev/sda1", "/sys/devices/pci0000:00/block/sda/sda1", None),
        (NFS, "", "", Root("192.0.2.5:/root (nfs4)", ip_address("192.0.2.5"))),
        ("/dev/sda1 / ext4 rw 0 0\n" + NFS, "", "", Root("192.0.2.5:/root (nfs4)", ip_address("192.0.2.5"))),
        ("nas:/root / nfs rw 0 0", "", "", Root("nas:/root (nfs)")),
        ("/dev/sdb1 / ext4 rw 0 0", "", ISCSI, Root("/dev/sdb1 (iSCSI)")),
        ("/dev/nbd0 / ext4 rw 0 0", "", "/sys/devices/virtual/block/nbd0", Root("/dev/nbd0 (nbd)")),
        (
            "overlay / overlay rw 0 0",
            "boot=live root=/dev/nfs nfsroot=192.0.2.5:/x",
            "",
            Root("root=/dev/nfs"),
        ),
        ("overlay / overlay rw 0 0", "root=/dev/sda1", "", None),
        ("", "", "", None),
    ],
)
def test_where_the_root_filesystem_comes_from(
    mounts: str, cmdline: str, device: str, found: Root | None
) -> None:
    assert root(mounts, cmdline, device) == found


def test_a_root_filesystem_over_the_nic_is_refused() -> None:
    there = host(
        links=(LO, ETH0, ETH1), routes=(*host().routes, connected("198.51.100.0/24", "198.51.100.9", "eth1"))
    )
    for found in (Root("x", ip_address("192.0.2.5")), Root("x", ip_address("203.0.113.5")), Root("x")):
        with pytest.raises(
            Refused, match=r"^host\.uplink: the root filesystem, x, comes over eth0"
        ) as caught:
            refuse_root(found, there, ETH0)
        assert caught.value.hint
    refuse_root(Root("x", ip_address("198.51.100.5")), there, ETH0)
    refuse_root(None, there, ETH0)


def test_without_carrier_or_address_it_waits() -> None:
    ready(host(), ETH0, addressed=True)
    for there, nic, words in (
        (host(), replace(ETH0, carrier=False), "eth0 has no carrier"),
        (host(addresses=()), ETH0, "eth0 has no address"),
        (host(addresses=(address("fe80::10/64"),)), ETH0, "eth0 has no address"),
    ):
        with pytest.raises(HostError, match=rf"^host\.uplink: {words}") as caught:
            ready(there, nic, addressed=True)
        assert caught.value.hint
        assert not isinstance(caught.value, Refused), "it may come yet"
    ready(host(addresses=()), ETH0, addressed=False)


def test_what_names_the_nic_is_told() -> None:
    told = list(warnings("eth0", RULESET, IPTABLES, SOCKETS, IGMP, lro=True))
    assert told == [
        "the chain input of inet filter names eth0, and sees what comes in by the bridge no more:"
        ' iifname "eth0" tcp dport 22 accept',
        "the chain input of inet filter names eth0, and sees what comes in by the bridge no more:"
        ' iifname { "eth0", "wlan0" } udp dport 53 accept',
        "the chain INPUT of iptables filter names eth0, and sees what comes in by the bridge no more:"
        " -A INPUT -i eth0 -p tcp -j ACCEPT",
        "ntpd (PID 7) listens on 192.0.2.10%eth0:123 alone, and hears nothing there any more",
        "a program has joined the multicast group 224.0.0.251 on eth0, and hears nothing there any more",
        "the bridge turns off large receive offload; after a teardown: ethtool -K eth0 lro on",
    ]
    assert list(warnings("eth9", RULESET, IPTABLES, SOCKETS, IGMP, lro=False)) == []


def test_many_rules_are_counted() -> None:
    many = "*filter\n" + "-A INPUT -i eth0 -j ACCEPT\n" * 12
    told = list(warnings("eth0", "", many, "", "", lro=False))
    assert len(told) == 6
    assert told[-1] == "7 more rules of the firewall name eth0"


def test_a_default_route_of_the_other_nic() -> None:
    other = host(routes=(route("default", "198.51.100.1", "eth1"),))
    refuse_root(Root("x", ip_address("203.0.113.5")), other, ETH0)
