"""What the doctor says of a host with systemd: each hint is typed as it is printed, and mends what was found."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.booted.booted import Booted
from tests.booted.managed import MANAGERS, PACKAGES
from tests.booted.test_managers import Install, address_of, assert_held, machine_with
from tests.lab import Lan, eventually

pytestmark = pytest.mark.booted

PLUGINS = (*PACKAGES, "containernetworking-plugins")
IFUP = "systemd-run --quiet --wait --unit=ifup-again --property=Type=oneshot --property=KillMode=none ifup --force eth0"
BREAKING = {
    "NetworkManager-dhcp": (
        "rm /run/NetworkManager/conf.d/90-terwayd*; systemctl reload NetworkManager; nmcli device set eth0 managed yes",
        "NetworkManager configures eth0 too",
        "nmcli ",
    ),
    "networkd-dhcp": (
        "rm /run/systemd/network/00-terwayd*; networkctl reload; networkctl reconfigure eth0",
        "systemd-networkd configures eth0 too",
        "printf ",
    ),
    "ifupdown-dhclient": (IFUP, "runs on eth0 or mybr0: dhclient (pid ", "kill "),
}


def finding(machine: Booted, group: str, code: str) -> dict[str, Any]:
    done = machine.run(["terwayctl", "doctor", "--json", group], check=False)
    found: list[dict[str, Any]] = json.loads(done.stdout)["findings"]
    return next(each for each in found if each["code"] == code)


def assert_mended(machine: Booted, group: str, code: str, broken: str, message: str, hint: str) -> None:
    """`broken` makes the check fail with `message`, and what its hint says makes it well."""
    assert finding(machine, group, code)["severity"] == "well"
    machine.run(broken)
    found = eventually(lambda: (seen := finding(machine, group, code))["hint"] and seen, 15)
    assert message in found["message"]
    assert found["hint"].startswith(hint)
    for command in found["hint"].split("; "):
        machine.run(command)
    eventually(lambda: finding(machine, group, code)["severity"] == "well", 15)


@pytest.mark.parametrize("name", BREAKING)
def test_a_manager_that_takes_the_nic_again(name: str, installed: Install, lan: Lan) -> None:
    with machine_with(MANAGERS[name], installed, lan, packages=PLUGINS) as machine:
        address = address_of(machine, "eth0")
        machine.systemctl("enable", "--now", "terwayd")
        assert_held(machine, address, dhcp=True)
        assert_mended(machine, "host", "other-manager", *BREAKING[name])
        eventually(lambda: address_of(machine, "eth0") == "", 10, "the address is on the bridge alone")
        assert lan.host.ping(address, count=3)
        if name == "networkd-dhcp":  # a unit that is there for its process, too
            socket, service = "cni-dhcp.socket", "cni-dhcp.service"
            assert_mended(
                machine,
                "cni",
                "cni-dhcp",
                f"systemctl enable --now {socket} {service}",
                "the DHCP daemon of the CNI plugins runs beside terwayd: pid ",
                f"systemctl disable --now {service} {socket}",
            )
            assert machine.systemctl("is-enabled", service, check=False) == "disabled"
