"""Commands of docs/, as they are written there, run on machines of the lab."""

from __future__ import annotations

import shutil

import pytest

from tests.core.test_docs import block
from tests.lab import Lan, eventually
from tests.lab.machine import CHECKOUT


@pytest.mark.long
def test_an_apt_repository(lan: Lan) -> None:
    """docs/fleet.md: made on one machine, and a node that installs from it over the LAN."""
    for tool in ("dpkg-scanpackages", "apt-ftparchive", "gpg"):
        assert shutil.which(tool), f"{tool} is not installed: apt-get install dpkg-dev apt-utils gnupg"
    package = next((CHECKOUT / "dist").glob("terwayd_*_all.deb"), None)
    assert package is not None, "make deb"
    server = lan.gateway
    server.path("/dist").mkdir()
    shutil.copyfile(package, server.path("/dist") / package.name)
    script = "\n".join(
        block("docs/fleet.md", "run: repository").splitlines()[1:]
    )  # what it installs is there
    server.run(["sh", "-ec", script], timeout=120)
    server.run(["sh", "-ec", f"cd /; {script}"], timeout=120)  # again, for the next version
    server.spawn(["python3", "-m", "http.server", "80", "--directory", "/srv/apt"], "/var/log/http.log")

    client = lan.machine("client", 20)
    client.write("/etc/hosts", f"127.0.0.1 localhost\n{lan.gateway_ip} apt.lan\n")
    client.run("rm -rf /etc/apt/sources.list /etc/apt/sources.list.d/* /var/lib/apt/lists/*")
    eventually(
        lambda: client.run("curl -fs http://apt.lan/terwayd.gpg >/dev/null", check=False).returncode == 0
    )
    client.run(["sh", "-ec", block("docs/fleet.md", "run: client")], timeout=120, env={"DEBIAN_FRONTEND": "noninteractive"})  # fmt: skip
    assert client.path("/usr/bin/terwayctl").exists()
    assert "terwayd" in client.run("dpkg-query -W terwayd").stdout
    server.path("/srv/apt/terwayd/InRelease").write_text("forged\n")
    refused = client.run("apt-get update", check=False, timeout=60)
    assert refused.returncode != 0
    assert "InRelease" in refused.stdout + refused.stderr
