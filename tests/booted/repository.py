"""The apt repository of docs/fleet.md on a machine of the LAN, made as the document says, served as http://apt.lan."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.booted.booted import Booted
from tests.core.test_docs import block
from tests.lab import Lan, eventually

DEBIAN = "deb [trusted=yes] http://apt.lan/debian ./\n"


def publish(lan: Lan, package: Path) -> None:
    """Put a version of the package into it, the first one or another."""
    install, *script = block("docs/fleet.md", "run: repository").splitlines()
    assert install.startswith("apt-get install ")  # what it installs is there
    shutil.copyfile(package, lan.gateway.path("/dist") / package.name)
    lan.gateway.run(["sh", "-ec", "\n".join(["cd /", *script])], timeout=120)


def serve(lan: Lan, package: Path, debian: Path | None = None) -> None:
    """Make it on the gateway and serve it.  With the root `debian` (see roots.py) there is a mirror of Debian
    besides, of the packages that terwayd depends on."""
    for tool in ("dpkg-scanpackages", "apt-ftparchive", "gpg"):
        assert shutil.which(tool), f"{tool} is not installed: apt-get install dpkg-dev apt-utils gnupg"
    server = lan.gateway
    server.path("/dist").mkdir()
    publish(lan, package)
    if debian is not None:
        shutil.copytree(debian / "var/cache/apt/archives", server.path("/srv/apt/debian"))
        server.run("cd /srv/apt/debian && dpkg-scanpackages --multiversion . >Packages", timeout=120)
    server.spawn(["python3", "-m", "http.server", "80", "--directory", "/srv/apt"], "/var/log/http.log")
    fetched = "curl -fs http://127.0.0.1/terwayd.gpg >/dev/null"
    eventually(lambda: server.run(fetched, check=False).returncode == 0, 10, "http://apt.lan answers")


def use(machine: Booted) -> None:
    """Have a machine, still off, know apt.lan, and Debian from there alone."""
    hosts = machine.read("/etc/hosts")
    machine.write("/etc/hosts", f"{hosts}{Lan.gateway_ip} apt.lan\n")
    machine.write("/etc/apt/sources.list", DEBIAN)
    for path in ("/var/cache/apt/archives", "/var/lib/apt/lists", "/etc/apt/sources.list.d"):
        shutil.rmtree(machine.path(path))
        machine.path(path).mkdir()
