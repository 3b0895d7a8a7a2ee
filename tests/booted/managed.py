"""Debian systems whose NIC is managed: by ifupdown, systemd-networkd or NetworkManager, static or by DHCP."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.booted.booted import INTERFACES, Booted
from tests.lab import Lan

PACKAGES = ("isc-dhcp-client", "network-manager", "dhcpcd-base", "netplan.io")

_LO = "auto lo\niface lo inet loopback\n"
_NETWORKD = "[Match]\nName=eth0\n\n[Network]\n{}\n"
_NM = """[connection]
id=lan
uuid=1b6a1c4e-9f0b-4c43-a8f6-4a6d87b1c001
type=ethernet
interface-name=eth0

[ipv4]
{}

[ipv6]
method=auto
"""
_NETPLAN = """network:
  version: 2
  renderer: {renderer}
  ethernets:
    eth0: {settings}
"""
_PROFILE = "/etc/NetworkManager/system-connections/lan.nmconnection"


@dataclass(frozen=True, slots=True)
class Manager:
    """How a NIC is managed: the service, what sets it up, and how to see that it is managed again.

    `owned` is a command that succeeds when the manager has the NIC, `prepared` one that sets up the rest.
    """

    service: str
    dhcp: bool
    files: Callable[[Booted], None]
    owned: str
    prepared: str = ""

    def install(self, machine: Booted) -> None:
        """Set up a machine that has not booted yet."""
        machine.write("/etc/network/interfaces", _LO)
        self.files(machine)
        services = {"systemd-networkd", "NetworkManager"}
        mine = services & {self.service}
        words = [f"systemctl disable {' '.join(sorted(services - mine))} NetworkManager-wait-online"]
        words += [f"systemctl enable {service}" for service in mine]
        machine.prepare(
            "; ".join([f"({word}) 2>&1 || true" for word in [*words, *filter(None, [self.prepared])]])
        )


def _ifupdown(method: str) -> Callable[[Booted], None]:
    return lambda machine: machine.write(
        "/etc/network/interfaces", f"{_LO}\nauto eth0\niface eth0 {method}\n"
    )


def _static(machine: Booted) -> None:
    machine.write(
        "/etc/network/interfaces", INTERFACES.format(address=f"{machine.address}/24", gateway=Lan.gateway_ip)
    )


def _networkd(settings: str) -> Callable[[Booted], None]:
    return lambda machine: machine.write(
        "/etc/systemd/network/20-lan.network", _NETWORKD.format(settings.format(address=machine.address))
    )


def _any_ethernet(machine: Booted) -> None:
    machine.write("/etc/systemd/network/80-any.network", "[Match]\nType=ether\n\n[Network]\nDHCP=yes\n")


def _network_manager(settings: str) -> Callable[[Booted], None]:
    return lambda machine: machine.write(
        _PROFILE, _NM.format(settings.format(address=machine.address)), 0o600
    )


def _netplan(renderer: str, settings: str = "{dhcp4: true}") -> Callable[[Booted], None]:
    return lambda machine: machine.write(
        "/etc/netplan/lan.yaml", _NETPLAN.format(renderer=renderer, settings=settings), 0o600
    )


_GATEWAY = Lan.gateway_ip
_CONFIGURED = "networkctl --no-pager list eth0 | grep -E 'configured|configuring'"
_CONNECTED = "nmcli -g GENERAL.STATE,GENERAL.CONNECTION device show eth0 | grep -E '^(lan|netplan-eth0)$'"
MANAGERS = {
    "ifupdown-static": Manager("networking", False, _static, "ifquery --state eth0"),
    "ifupdown-beside-NetworkManager": Manager(
        "networking", False, _static, "ifquery --state eth0", "systemctl enable NetworkManager"
    ),
    "ifupdown-dhclient": Manager(
        "networking", True, _ifupdown("inet dhcp"), "grep -qa '/run/[d]hclient.eth0.pid' /proc/[0-9]*/cmdline"
    ),
    "ifupdown-dhcpcd": Manager(
        "networking",
        True,
        _ifupdown("inet dhcp"),
        "grep -qa '^[d]hcpcd: eth0' /proc/[0-9]*/cmdline",
        "mv /sbin/dhclient /root/",
    ),
    "networkd-static": Manager(
        "systemd-networkd", False, _networkd(f"Address={{address}}/24\nGateway={_GATEWAY}"), _CONFIGURED
    ),
    "networkd-dhcp": Manager("systemd-networkd", True, _networkd("DHCP=yes"), _CONFIGURED),
    "networkd-any": Manager("systemd-networkd", True, _any_ethernet, _CONFIGURED),
    "NetworkManager-static": Manager(
        "NetworkManager",
        False,
        _network_manager(f"method=manual\naddresses={{address}}/24\ngateway={_GATEWAY}"),
        _CONNECTED,
    ),
    "NetworkManager-dhcp": Manager("NetworkManager", True, _network_manager("method=auto"), _CONNECTED),
    "netplan-networkd-dhcp": Manager("systemd-networkd", True, _netplan("networkd"), _CONFIGURED),
    "netplan-NetworkManager-dhcp": Manager("NetworkManager", True, _netplan("NetworkManager"), _CONNECTED),
}
