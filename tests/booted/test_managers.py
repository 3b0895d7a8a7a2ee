"""A host whose NIC is managed: taken over and given back, and in reach of the LAN all the time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from tests.booted.booted import Booted
from tests.booted.managed import MANAGERS, PACKAGES, Manager
from tests.booted.test_package import assert_ready, network
from tests.lab import Lan, Probe, eventually

pytestmark = [pytest.mark.booted, pytest.mark.alone]


class Install(Protocol):
    def __call__(self, suite: str, extra: tuple[str, ...] = ()) -> tuple[Path, Path]: ...


@contextlib.contextmanager
def machine_with(
    manager: Manager,
    install: Install,
    lan: Lan,
    number: int = 51,
    name: str = "node",
    packages: tuple[str, ...] = PACKAGES,
) -> Iterator[Booted]:
    """A machine that has booted, its NIC configured by its manager to the end; terwayd installed, not enabled."""
    with Booted(name, *install("bookworm", packages), number=number) as machine:
        manager.install(machine)
        machine.boot(lan)
        eventually(lambda: address_of(machine, "eth0"), 15, "the NIC has an address")
        eventually(lambda: "fe80::" in machine.run("ip -6 addr show dev eth0 -tentative").stdout, 10)
        try:
            yield machine
        except BaseException:
            if machine.pid:
                print(machine.journal("-u", "terwayd", "-u", manager.service))
            raise


def address_of(machine: Booted, dev: str) -> str:
    entries = machine.ip_json(f"-4 addr show dev {dev}")
    return next((info["local"] for entry in entries for info in entry["addr_info"]), "")


def lifetime_of(machine: Booted, dev: str) -> int:
    return int(machine.ip_json(f"-4 addr show dev {dev}")[0]["addr_info"][0]["valid_life_time"])


def assert_held(machine: Booted, address: str, *, dhcp: bool) -> None:
    """The host has its address on the bridge and nothing on the NIC; of a lease it has the lifetime."""
    assert_ready(machine)
    assert machine.ip_json("link show eth0")[0]["master"] == "mybr0"
    assert (address_of(machine, "mybr0"), address_of(machine, "eth0")) == (address, "")
    assert (lifetime_of(machine, "mybr0") < 2**32 - 1) == dhcp
    ours = "nmcli -g DEVICE,STATE device | grep -E '^(mybr0|tw)' | grep -v unmanaged"
    assert machine.run(ours, check=False).stdout == "", "NetworkManager leaves what is ours alone"
    assert "mended" not in machine.journal("-u", "terwayd")


@pytest.mark.parametrize("name", MANAGERS)
def test_a_managed_host_is_in_reach_all_the_time(name: str, installed: Install, lan: Lan) -> None:
    manager = MANAGERS[name]
    with machine_with(manager, installed, lan) as machine:
        address, before = address_of(machine, "eth0"), network(machine)
        resolver = machine.run("cat /etc/resolv.conf").stdout
        with lan.host.probe(address) as taken:
            machine.systemctl("enable", "--now", "terwayd")
            eventually(lambda: not manager.dhcp or len(acks(lan, machine)) > 1, 5, "the server was asked")
            assert_held(machine, address, dhcp=manager.dhcp)
        assert machine.run("cat /etc/resolv.conf").stdout == resolver
        assert {message.mac for message in lan.dhcp.messages()} <= {machine.mac}, "nothing of ours asked"
        assert "✔ other-manager" in machine.run("terwayctl doctor host", check=False).stdout

        with lan.host.probe(address) as restarted:
            machine.systemctl("restart", manager.service)
            assert lan.host.ping(address, count=10)
            assert_held(machine, address, dhcp=manager.dhcp)
            machine.systemctl("restart", "terwayd")
            assert_held(machine, address, dhcp=manager.dhcp)

        asked = len(acks(lan, machine))
        with lan.host.probe(address) as given_back:
            machine.run("terwayctl teardown")
            eventually(lambda: machine.run(manager.owned, check=False).returncode == 0, 10, "managed again")
            eventually(lambda: not manager.dhcp or len(acks(lan, machine)) > asked, 15, "it asks the server")
            eventually(lambda: before.diff(network(machine)) == [], 10, "the network is as it was")
        assert (lifetime_of(machine, "eth0") < 2**32 - 1) == manager.dhcp
        assert machine.run("find /run -name '*terwayd*' -type f -not -path '*/transient/*'").stdout == ""
        assert not manager.dhcp or lan.dhcp.messages("DHCPRELEASE") == []
        assert (taken.loss, restarted.loss, given_back.loss) != (None, None, None)
        print(f"{name}: taken over {taken.loss}, restarted {restarted.loss}, given back {given_back.loss}")
        assert_nothing_lost(taken, restarted, given_back)

        machine.run("terwayctl setup")
        assert_held(machine, address, dhcp=manager.dhcp)
        machine.reboot()
        eventually(lambda: machine.run("terwayctl status", check=False).returncode == 0, 15, "ready again")
        assert_held(machine, address, dhcp=manager.dhcp)
        assert lan.host.ping(address, count=3)


def assert_nothing_lost(*probes: Probe) -> None:
    losses = [probe.loss for probe in probes]
    assert all(loss is not None and loss.none for loss in losses), losses


def acks(lan: Lan, machine: Booted) -> list[str]:
    """The addresses that the server has confirmed to the machine, oldest first."""
    return [str(message.address) for message in lan.dhcp.messages("DHCPACK", machine.mac)]


def test_a_host_that_is_given_another_address_moves_to_it(installed: Install, lan: Lan) -> None:
    with machine_with(MANAGERS["networkd-dhcp"], installed, lan) as machine:
        machine.systemctl("enable", "--now", "terwayd")
        eventually(lambda: len(acks(lan, machine)) > 1, 5, "the server was asked")
        old = address_of(machine, "mybr0")
        lan.dhcp.restart(first="192.168.77.210", last="192.168.77.220")
        machine.systemctl("restart", "terwayd")
        eventually(lambda: address_of(machine, "mybr0").startswith("192.168.77.21"), 15, "a new address")
        new = address_of(machine, "mybr0")
        eventually(lambda: lan.host.ping(new), 5, "the new address answers")
        assert machine.ping(lan.world, count=3)
        assert old not in machine.run("ip addr; ip route show table all").stdout
        assert_ready(machine)
        machine.run("terwayctl teardown")
        eventually(lambda: address_of(machine, "eth0") == new, 15, "the manager has the new address")
        assert old not in machine.run("ip addr; ip route show table all").stdout
        assert lan.host.ping(new, count=3)


@pytest.mark.parametrize("name", ["ifupdown-dhclient", "networkd-dhcp", "NetworkManager-dhcp"])
def test_the_manager_gets_the_nic_back_without_the_daemon(name: str, installed: Install, lan: Lan) -> None:
    manager = MANAGERS[name]
    with machine_with(manager, installed, lan) as machine:
        address, before = address_of(machine, "eth0"), network(machine)
        machine.systemctl("enable", "--now", "terwayd")
        eventually(lambda: len(acks(lan, machine)) > 1, 5, "the server was asked")
        machine.systemctl("stop", "terwayd.service", "terwayd.socket")
        asked = len(acks(lan, machine))
        with lan.host.probe(address) as probe:
            machine.run("terwayctl teardown")
            eventually(lambda: machine.run(manager.owned, check=False).returncode == 0, 10, "managed again")
            eventually(lambda: len(acks(lan, machine)) > asked, 15, "it asks the server")
            eventually(lambda: before.diff(network(machine)) == [], 10, "the network is as it was")
        assert_nothing_lost(probe)


@pytest.mark.long
def test_leases_of_hosts_are_renewed(installed: Install, lan: Lan) -> None:
    """Two renewals each while taken over, and one by the manager after; all machines at the same time."""
    with contextlib.ExitStack() as stack:
        machines: dict[str, Booted] = {}
        for number, name in enumerate([name for name, manager in MANAGERS.items() if manager.dhcp], 51):
            made = machine_with(MANAGERS[name], installed, lan, number, f"node{number}")
            machines[name] = stack.enter_context(made)
        addresses = {name: address_of(machine, "eth0") for name, machine in machines.items()}
        probes = {
            name: stack.enter_context(lan.host.probe(address, 100)) for name, address in addresses.items()
        }
        asked = {}
        for name, machine in machines.items():
            machine.systemctl("enable", "--now", "terwayd")
            eventually(lambda machine=machine: len(acks(lan, machine)) > 1, 5)  # type: ignore[misc]
            asked[name] = len(acks(lan, machine))
        for name, machine in machines.items():
            eventually(lambda n=name, m=machine: len(acks(lan, m)) >= asked[n] + 2, 150, f"{name} twice", 0.5)  # type: ignore[misc]
            assert_held(machine, addresses[name], dhcp=True)
            assert lifetime_of(machine, "mybr0") > 60
        for machine in machines.values():
            machine.run("terwayctl teardown")
        for name, machine in machines.items():
            eventually(lambda n=name, m=machine: len(acks(lan, m)) >= asked[n] + 4, 90, f"{name} once", 0.5)  # type: ignore[misc]
            assert set(acks(lan, machine)) == {addresses[name]}
            assert address_of(machine, "eth0") == addresses[name]
        assert lan.dhcp.messages("DHCPRELEASE") == []
        print({name: str(probe.stop()) for name, probe in probes.items()})
        assert_nothing_lost(*probes.values())


@pytest.mark.long
def test_a_host_keeps_its_address_while_no_server_answers(installed: Install, lan: Lan) -> None:
    forever = 2**32 - 1
    with machine_with(MANAGERS["networkd-dhcp"], installed, lan) as machine:
        machine.systemctl("enable", "--now", "terwayd")
        eventually(lambda: len(acks(lan, machine)) > 1, 5, "the server was asked")
        address = address_of(machine, "mybr0")
        with lan.host.probe(address) as probe:
            lan.dhcp.stop()
            eventually(lambda: lifetime_of(machine, "mybr0") == forever, 150, "the lease has ended", 0.5)
            status = machine.run("terwayctl status", check=False)
            assert status.returncode == 4
            assert f"{address} is lost" in status.stdout
            lan.dhcp.start()
            eventually(lambda: lifetime_of(machine, "mybr0") < forever, 30, "a lease again")
        assert_nothing_lost(probe)
        assert_held(machine, address, dhcp=True)


@pytest.mark.long
@pytest.mark.parametrize("name", ["networkd-dhcp", "NetworkManager-dhcp"])
def test_systemd_resolved_asks_over_the_bridge(name: str, installed: Install, lan: Lan) -> None:
    packages = (*PACKAGES, "systemd-resolved")
    with machine_with(MANAGERS[name], installed, lan, packages=packages) as machine:
        server = f"{lan.gateway_ip}\n"
        eventually(lambda: machine.run("resolvectl dns eth0").stdout.endswith(server), 10, "a name server")
        machine.systemctl("enable", "--now", "terwayd")
        assert machine.run("resolvectl dns mybr0").stdout.endswith(server)
        eventually(
            lambda: "Current Scopes: DNS" in machine.run("resolvectl --no-pager status mybr0").stdout, 10
        )
        machine.run("terwayctl teardown")
        eventually(lambda: machine.run("resolvectl dns eth0").stdout.endswith(server), 10, "a name server")
        eventually(
            lambda: "Current Scopes: DNS" in machine.run("resolvectl --no-pager status eth0").stdout, 10
        )
