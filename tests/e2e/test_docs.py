"""Commands of docs/, as they are written there, run on machines of the lab."""

from __future__ import annotations

import pytest

from tests.booted.repository import publish, serve
from tests.core.test_docs import block
from tests.lab import Lan
from tests.lab.machine import CHECKOUT


@pytest.mark.long
def test_an_apt_repository(lan: Lan) -> None:
    """docs/fleet.md: made on one machine, and a node that installs from it over the LAN."""
    package = next((CHECKOUT / "dist").glob("terwayd_*_all.deb"), None)
    assert package is not None, "make deb"
    serve(lan, package)
    publish(lan, package)  # again, as for the next version

    client = lan.machine("client", 20)
    client.write("/etc/hosts", f"127.0.0.1 localhost\n{lan.gateway_ip} apt.lan\n")
    client.run("rm -rf /etc/apt/sources.list /etc/apt/sources.list.d/* /var/lib/apt/lists/*")
    script = ["sh", "-ec", block("docs/fleet.md", "run: client")]
    told = client.run(script, timeout=120, env={"DEBIAN_FRONTEND": "noninteractive"})
    assert "W: " not in told.stdout + told.stderr
    assert client.path("/usr/bin/terwayctl").exists()
    assert "terwayd" in client.run("dpkg-query -W terwayd").stdout
    lan.gateway.path("/srv/apt/terwayd/InRelease").write_text("forged\n")
    refused = client.run("apt-get update", check=False, timeout=60)
    assert refused.returncode != 0
    assert "InRelease" in refused.stdout + refused.stderr
