"""What the hosts' DHCP clients leave on the disk, as Debian 12's write it, and the host's own lease."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from terwayd.host import lease
from terwayd.host.lease import Leased

MAC = "52:54:00:77:01:33"
HERE, SERVER = IPv4Address("192.168.77.198"), IPv4Address("192.168.77.1")

NETWORKD = """# This is private data. Do not parse.
ADDRESS=192.168.77.198
NETMASK=255.255.255.0
ROUTER=192.168.77.1 192.168.77.3
SERVER_ADDRESS=192.168.77.1
LIFETIME=120
CLIENTID=ff7356d3a800020000ab1117c581c765d0d512
"""
NETWORK_MANAGER = """[device]
managed=true
connection-uuid=1b6a1c4e-9f0b-4c43-a8f6-4a6d87b1c001

[dhcp4]
dhcp4.dhcp_client_identifier=01:52:54:00:77:01:33
dhcp4.dhcp_server_identifier=192.168.77.1
dhcp4.ip_address=192.168.77.198
dhcp4.routers=192.168.77.1
"""
DHCLIENT = r"""default-duid "\000\001\000\0012\227V%RT\000w\0013";
lease {
  interface "eth0";
  fixed-address 192.168.77.150;
  option dhcp-server-identifier 192.168.77.9;
}
lease {
  interface "eth0";
  fixed-address 192.168.77.198;
  option subnet-mask 255.255.255.0;
  option routers 192.168.77.1,192.168.77.3;
  option dhcp-server-identifier 192.168.77.1;
  renew 1 2026/11/23 19:53:55;
}
"""
DHCPCD = """reason=CARRIER
interface=eth0
ifcarrier=up

reason=BOUND
interface=eth0
protocol=dhcp
ip_address=192.168.77.198
routers=192.168.77.1
dhcp_server_identifier=192.168.77.1
"""
DUID = "00:01:00:01:32:97:5a:00:52:54:00:77:01:33\n"


def test_systemd_networkd() -> None:
    expected = Leased(HERE, "ff7356d3a800020000ab1117c581c765d0d512", SERVER, SERVER)
    assert lease.of_networkd(NETWORKD) == expected


def test_network_manager() -> None:
    assert lease.of_network_manager(NETWORK_MANAGER) == Leased(HERE, "01525400770133", SERVER, SERVER)
    assert lease.of_network_manager("[device]\nmanaged=true\n") is None, "a static connection"


@pytest.mark.parametrize(
    ("command", "conf", "client_id"),
    [
        (["dhclient", "-4", "-i", "eth0"], "", "ff007701330001000132975625525400770133"),
        (["dhclient", "eth0"], "", ""),
        (["dhclient", "eth0"], "send dhcp-client-identifier = hardware;", "01525400770133"),
        (["dhclient", "eth0"], "  send dhcp-client-identifier 1:52:54:0:77:1:33;", "01525400770133"),
        (["dhclient", "eth0"], 'send dhcp-client-identifier "node-7";', b"node-7".hex()),
        (["dhclient", "eth0"], "#send dhcp-client-identifier 1:2:3;", ""),
    ],
)
def test_dhclient(command: list[str], conf: str, client_id: str) -> None:
    assert lease.of_dhclient(DHCLIENT, MAC, command, conf) == Leased(HERE, client_id, SERVER, SERVER)


def test_dhcpcd() -> None:
    by_duid = Leased(HERE, "ff007701330001000132975a00525400770133", SERVER, SERVER)
    assert lease.of_dhcpcd(DHCPCD, MAC, DUID, "#clientid\nduid\n") == by_duid
    by_mac = Leased(HERE, "01525400770133", SERVER, SERVER)
    assert lease.of_dhcpcd(DHCPCD, MAC, DUID, "clientid\n") == by_mac
    assert lease.of_dhcpcd(DHCPCD, MAC, "", "") == by_mac


@pytest.mark.parametrize("text", ["", "garbage", "lease {", "ADDRESS=\nCLIENTID=xyz", "ip_address=300.1.1.1"])
def test_what_tells_no_address_is_no_lease(text: str) -> None:
    assert lease.of_networkd(text) is None
    assert lease.of_network_manager(text) is None
    assert lease.of_dhclient(text, MAC, ["dhclient", "-i", "eth0"]) is None
    assert lease.of_dhcpcd(text, MAC, DUID) is None
    assert lease.of_dhclient("lease {\n" + text + "\n}\n", MAC, ["dhclient", "-i", "eth0"]) is None


def test_a_client_identifier_that_cannot_be_read_is_none() -> None:
    found = lease.of_networkd("ADDRESS=192.168.77.198\nCLIENTID=zz")
    assert found == Leased(HERE)
