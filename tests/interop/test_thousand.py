"""A thousand leases in one daemon's engine, against Kea."""

from __future__ import annotations

import json

import pytest

from tests.interop.servers import Kea, Range
from tests.lab import Lan, eventually
from tests.lab.machine import CHECKOUT, PYTHON

pytestmark = [pytest.mark.interop, pytest.mark.alone]


def test_a_thousand_leases() -> None:
    with Lan(dhcp=None) as lan:
        lan.gateway.ip("addr add 10.77.0.1/16 dev eth0", "addr del 192.168.77.1/24 dev eth0")
        room = Range("10.77.1.0", "10.77.8.255", seconds=20, router="10.77.0.1", subnet="10.77.0.0/16")
        server = Kea(lan.gateway, room)
        server.start()
        client = lan.machine("client")
        client.environment["PYTHONPATH"] = str(CHECKOUT)
        done = client.run([PYTHON, "-m", "tests.interop.thousand"], timeout=120.0)
        said = json.loads(done.stdout)
        print(said)

        def unreleased() -> list[str]:
            return [one for one, seconds in lifetimes(lan.gateway.read(server.leases)).items() if seconds]

        eventually(lambda: not unreleased(), 10.0, "all are released", 0.1)
        assert said["acquired"] == said["held"] == 1000
        assert said["renewals"] >= 1000
        assert said["others"] == 0, "no lease was lost, no server silent"
        for phase in ("acquire", "hold", "release"):
            assert said[f"{phase}_blocked_ms"] < 20, phase


def lifetimes(table: str) -> dict[str, int]:
    """Seconds of each lease, by Kea's own record; 0 for one that was released."""
    rows = [line.split(",") for line in table.splitlines()[1:]]
    return {row[0]: int(row[3]) for row in rows if len(row) > 4}
