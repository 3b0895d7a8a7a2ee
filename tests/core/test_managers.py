"""What is done about the managers of a NIC, in which order, and that it is all undone."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface

import pytest

from terwayd import codec
from terwayd.host import interfaces, moves
from terwayd.host.commands import RemoveFile, Run, StartClient, StopClient, WriteFile
from terwayd.host.drift import drift
from terwayd.host.lease import Leased
from terwayd.host.managers import (
    IFUPDOWN_FILE,
    NETWORKD_FILE,
    NETWORKD_NIC_FILE,
    NM_FILE,
    NM_NIC_FILE,
    Client,
    Found,
    Held,
    hold,
)
from terwayd.host.plan import Plan, plan, readdressed, way_back
from terwayd.host.steps import Step, undo
from terwayd.model import Host
from tests.core.hosts import ETH0, address, connected, host, route

LEASED = address("192.0.2.10/24", valid=100, preferred=100)
LEASE = Leased(
    IPv4Address("192.0.2.10"), "01525400770003", IPv4Address("192.0.2.1"), IPv4Address("192.0.2.1")
)
ROUTES = (
    connected("192.0.2.0/24", "192.0.2.10"),
    route("default", "192.0.2.1", proto=16, prefsrc=IPv4Address("192.0.2.10")),
)
DYNAMIC = host(addresses=(LEASED,), routes=ROUTES)
CLIENT = Client("dhclient", ("dhclient", "-4", "-i", "eth0"))
ALL = Found(
    networkd=True,
    nm=True,
    ifupdown=True,
    clients=(CLIENT,),
    lease=LEASE,
    systemd=True,
    nm_note=("/run/NetworkManager/devices/2", "[device]\nmanaged=true\n"),
)
NETWORKD = (
    rf"printf '[Match]\nName=mybr0 tw*\n\n[Link]\nUnmanaged=yes\n' > {NETWORKD_FILE}",
    "networkctl reload",
)
NETWORKD_NIC = (
    rf"printf '[Match]\nName=eth0\n\n[Link]\nUnmanaged=yes\n' > {NETWORKD_NIC_FILE}",
    "networkctl reload",
)
NM_RELOAD = "nmcli general reload conf"
NM = (
    r"printf '[keyfile]\nunmanaged-devices+=interface-name:mybr0;interface-name:tw*\n'" f" > {NM_FILE}",
    NM_RELOAD,
)


def made(found: Found, there: Host = DYNAMIC) -> Plan:
    return plan(there, ETH0, "mybr0", hold(found, "eth0", "mybr0"))


def commands(steps: tuple[Step, ...]) -> list[str]:
    return [str(step) for step in steps]


def test_where_nobody_manages_nothing_is_done() -> None:
    assert hold(Found(), "eth0", "mybr0") == Held()
    assert hold(Found(ifupdown=True), "eth0", "mybr0") == Held(), "without systemd nobody does ifdown -a"


@pytest.mark.parametrize(
    ("found", "there", "back"),
    [
        (
            Found(networkd=True),
            [*NETWORKD, *NETWORKD_NIC],
            [f"rm -f {NETWORKD_NIC_FILE}", f"rm -f {NETWORKD_FILE}", "networkctl reload"],
        ),
        (
            Found(networkd=True, networkd_stale=True),
            [NETWORKD[0], *NETWORKD_NIC],
            [f"rm -f {NETWORKD_NIC_FILE}", f"rm -f {NETWORKD_FILE}", "networkctl reload"],
        ),
        (
            Found(nm=True, systemd=True),
            [*NM, NM_RELOAD],
            [f"rm -f {NM_FILE}", NM_RELOAD],
        ),
        (
            replace(ALL, networkd=False, ifupdown=False, clients=()),
            [
                *NM,
                r"printf '[main]\ndns=none\n\n[keyfile]\nunmanaged-devices+=interface-name:eth0\n'"
                f" > {NM_NIC_FILE}",
                "systemctl reset-failed NetworkManager",
                "systemctl stop NetworkManager",
                "rm -f /run/NetworkManager/devices/2",
                "systemctl start NetworkManager",
            ],
            [
                f"rm -f {NM_NIC_FILE}",
                f"rm -f {NM_FILE}",
                "systemctl reset-failed NetworkManager",
                "systemctl stop NetworkManager",
                r"printf '[device]\nmanaged=true\n' > /run/NetworkManager/devices/2",
                "systemctl start NetworkManager",
            ],
        ),
        (
            Found(ifupdown=True, systemd=True),
            [
                rf"printf '[Service]\nEnvironment=EXCLUDE_INTERFACES=eth0\n' > {IFUPDOWN_FILE}",
                "systemctl daemon-reload",
            ],
            [f"rm -f {IFUPDOWN_FILE}", "systemctl daemon-reload"],
        ),
        (
            Found(clients=(CLIENT,), systemd=True),
            [r"pkill -KILL -f '^(/s?bin/)?dhclient\b.* eth0\b'"],
            [
                "systemd-run --quiet --collect --unit=terwayd-dhclient-eth0 --property=Type=forking"
                " dhclient -4 -i eth0"
            ],
        ),
        (
            Found(clients=(CLIENT,)),
            [r"pkill -KILL -f '^(/s?bin/)?dhclient\b.* eth0\b'"],
            ["dhclient -4 -i eth0"],
        ),
        (
            Found(networkd=True, dns=("192.0.2.1",), domains=("lan",)),
            [*NETWORKD, *NETWORKD_NIC, "resolvectl dns mybr0 192.0.2.1", "resolvectl domain mybr0 lan"],
            [
                f"rm -f {NETWORKD_NIC_FILE}",
                f"rm -f {NETWORKD_FILE}",
                "networkctl reload",
                "systemctl try-restart systemd-resolved",
            ],
        ),
    ],
)
def test_what_holds_a_manager_and_lets_it_go(found: Found, there: list[str], back: list[str]) -> None:
    held = hold(found, "eth0", "mybr0")
    assert commands((*held.early, *held.late)) == there
    assert commands(undo((*held.early, *held.late))) == back


def test_managers_are_told_of_the_nic_when_the_addresses_have_moved() -> None:
    steps = made(ALL).steps
    told = [n for n, step in enumerate(steps) if "eth0" in str(step) and isinstance(step, WriteFile)]
    assert isinstance(steps[0], StopClient)
    assert len(told) == 3
    assert set(map(type, steps[told[0] :])) == {WriteFile, Run, RemoveFile}
    assert any(isinstance(step, moves.DelAddress) for step in steps[: told[0]])


def test_managers_know_of_new_interfaces_before_they_are_made() -> None:
    steps = made(ALL).steps
    made_at = next(n for n, step in enumerate(steps) if isinstance(step, interfaces.AddBridge))
    assert commands(steps[1:made_at]) == [*NETWORKD, *NM]


def test_managers_are_told_last_on_the_way_back() -> None:
    back = way_back(made(ALL), DYNAMIC)
    kinds = [type(step) for step in back]
    told = kinds.index(StartClient)
    assert set(kinds[told:]) <= {Run, StartClient, WriteFile, RemoveFile}
    words = commands(back)
    for file, manager in (
        (NETWORKD_NIC_FILE, "networkctl"),
        (NM_NIC_FILE, "systemctl start NetworkManager"),
        (IFUPDOWN_FILE, "systemctl daemon-reload"),
    ):
        last = max(n for n, word in enumerate(words) if word.startswith(manager))
        assert words.index(f"rm -f {file}") < last, f"{manager} is told without the file"
    assert {f"rm -f {NETWORKD_FILE}", f"rm -f {NM_FILE}"} < set(words[:told])
    assert (
        kinds.index(moves.AddAddress)
        < kinds.index(interfaces.Release)
        < kinds.index(interfaces.DelLink)
        < told
    )


def test_a_plan_with_managers_and_a_lease_goes_through_the_journal() -> None:
    wanted = made(ALL)
    assert wanted.lease == LEASE
    assert codec.decode(Plan, codec.encode(wanted)) == wanted


def test_a_lease_that_is_not_on_the_nic_is_nobodys() -> None:
    assert made(ALL, host(addresses=(address("192.0.2.10/24"),), routes=ROUTES)).lease is None
    assert made(replace(ALL, lease=replace(LEASE, address=IPv4Address("192.0.2.99")))).lease is None


def test_a_manager_that_hears_the_routers_itself_leaves_that_to_the_kernel_on_the_bridge() -> None:
    keys = {"net/ipv6/conf/eth0/disable_ipv6": "0", "net/ipv6/conf/eth0/accept_ra": "0"}
    keys |= {"net/ipv6/conf/default/accept_ra": "0"}
    there = host(addresses=(LEASED,), routes=ROUTES, sysctls=keys)
    key = "net/ipv6/conf/mybr0/accept_ra"
    assert interfaces.SetSysctl(key, "1") in made(Found(userspace_ra=True), there).steps
    assert not [
        x
        for x in made(Found(networkd=True), there).steps
        if isinstance(x, interfaces.SetSysctl) and x.key == key
    ]
    forwarding = replace(there, sysctls=keys | {"net/ipv6/conf/eth0/forwarding": "1"})
    assert interfaces.SetSysctl(key, "2") in made(Found(userspace_ra=True), forwarding).steps


def test_a_leased_address_goes_back_with_the_time_it_has_left() -> None:
    wanted = made(ALL)
    later = host(addresses=(address("192.0.2.10/24", "mybr0", valid=37, preferred=36),))
    given = [step.address for step in way_back(wanted, later) if isinstance(step, moves.AddAddress)]
    assert [(a.dev, a.valid, a.preferred) for a in given] == [("eth0", 37, 36)]
    static = plan(host(addresses=(address("192.0.2.10/24"),), routes=ROUTES), ETH0, "mybr0")
    given = [step.address for step in way_back(static, later) if isinstance(step, moves.AddAddress)]
    assert [a.valid for a in given] == [None]


def test_changing_lifetimes_are_no_drift_and_a_leased_address_that_is_gone_is() -> None:
    wanted = made(ALL)
    bridge = replace(ETH0, index=5, name="mybr0", kind="bridge")
    nic = replace(ETH0, master=5, alias="terwayd uplink of mybr0")
    onto = [step.address for step in wanted.steps if isinstance(step, moves.AddAddress)]
    there = Host(
        links=(nic, bridge),
        addresses=tuple(replace(a, valid=7, preferred=7) for a in onto),
        routes=tuple(step.route for step in wanted.steps if isinstance(step, moves.AddRoute)),
    )
    assert drift(wanted, there).found == ()
    assert drift(wanted, replace(there, addresses=())).found == ("192.0.2.10/24 is not on mybr0",)


def test_another_address_takes_the_routes_along() -> None:
    old, new = IPv4Interface("192.0.2.10/24"), IPv4Interface("198.51.100.7/25")
    moved = readdressed(made(ALL), old, new, IPv4Address("198.51.100.1"))
    text = "\n".join(str(step) for step in moved.steps if not isinstance(step, moves.AddNeighbour))
    assert "192.0.2." not in text
    assert "ip route prepend 198.51.100.0/25 dev mybr0 proto kernel scope link src 198.51.100.7" in text
    assert "ip route prepend default via 198.51.100.1 dev mybr0 proto dhcp src 198.51.100.7" in text
    assert "ip addr del 198.51.100.7/25 dev eth0" in text
    assert "brd 198.51.100.127" in text
    assert moved.lease is not None
    assert (str(moved.lease.address), moved.lease.client_id) == ("198.51.100.7", LEASE.client_id)
    again = readdressed(moved, new, old, IPv4Address("192.0.2.1"))
    assert again == made(ALL)


def test_what_is_not_of_the_lease_stays_as_it_is() -> None:
    more = (address("203.0.113.5/24"), LEASED)
    routes = (*ROUTES, connected("203.0.113.0/24", "203.0.113.5"), route("10.0.0.0/8", "203.0.113.1"))
    wanted = made(ALL, host(addresses=more, routes=routes))
    old = IPv4Interface("192.0.2.10/24")
    moved = readdressed(wanted, old, IPv4Interface("192.0.2.20/24"), None)
    others = [step for step in wanted.steps if "192.0.2.10" not in str(step)]
    assert [step for step in moved.steps if step in others] == others
    assert "ip route prepend default via 192.0.2.1 dev mybr0" in "\n".join(commands(moved.steps))
