"""The rules as text, the set's elements, and the one rule of iptables: where it has to stand."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from terwayd.kernel.iptables import changes
from terwayd.pods.ruleset import macs_of, ruleset
from terwayd.pods.sending import Port

POD = Port("tw0123456789ab", "1a:ae:7a:95:68:5c", "c0ffee", (IPv4Address("192.168.0.57"),), index=37)


def test_a_pod_as_an_element_and_as_text() -> None:
    assert macs_of([POD]) == {b"tw0123456789ab\0\0" + bytes.fromhex("1aae7a95685c0000")}
    assert f'elements = {{ "{POD.name}" . {POD.mac} }}' in ruleset("mybr0", [POD])


def test_no_rule_is_a_pods_own() -> None:
    others = [Port(f"tw{n:012x}", f"02:00:00:00:00:{n:02x}", str(n)) for n in range(99)]
    few, many = (ruleset("mybr0", ports) for ports in ([], others))
    assert [line for line in few.splitlines() if " set " not in line] == [
        line for line in many.splitlines() if " set " not in line
    ]
    assert len(macs_of(others)) == 99


RULE = "-i mybr0 -o mybr0 -m comment --comment terwayd -j ACCEPT"
DOCKER = "-P FORWARD DROP\n-A FORWARD -j DOCKER-USER\n-A FORWARD -o docker0 -j DOCKER"
USER = "-N DOCKER-USER\n-A DOCKER-USER -j RETURN"


@pytest.mark.parametrize(
    ("forward", "user", "place", "told"),
    [
        ("-P FORWARD ACCEPT", "", "", []),
        ("-P FORWARD DROP", "", "FORWARD", ["-I FORWARD"]),
        (f"-P FORWARD DROP\n-A FORWARD {RULE}", "", "FORWARD", []),
        (
            "-P FORWARD ACCEPT\n-A FORWARD -j REJECT --reject-with icmp-host-prohibited",
            "",
            "FORWARD",
            ["-I FORWARD"],
        ),
        ("-P FORWARD ACCEPT\n-A FORWARD -i eth1 -j DROP", "", "", []),
        (f"-P FORWARD ACCEPT\n-A FORWARD {RULE}", "", "", ["-D FORWARD"]),
        (DOCKER, USER, "DOCKER-USER", ["-I DOCKER-USER"]),
        (f"{DOCKER}\n-A FORWARD {RULE}", USER, "DOCKER-USER", ["-I DOCKER-USER", "-D FORWARD"]),
        ("-P FORWARD DROP", USER, "FORWARD", ["-I FORWARD"]),  # nobody looks at that chain
    ],
)
def test_where_the_rule_of_iptables_stands(forward: str, user: str, place: str, told: list[str]) -> None:
    found, commands = changes(forward, user, "mybr0", wanted=True)
    assert (found, [" ".join(command) for command in commands]) == (
        place,
        [f"{what} {RULE}" for what in told],
    )


def test_it_goes_with_us() -> None:
    place, commands = changes(f"-P FORWARD DROP\n-A FORWARD {RULE}", "", "mybr0", wanted=False)
    assert (place, commands) == ("", [["-D", "FORWARD", *RULE.split()]])
