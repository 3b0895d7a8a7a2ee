"""The package, built from this checkout and installed once; then each test has a machine of its own with it."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.booted import roots
from tests.booted.booted import Booted
from tests.lab import Lan
from tests.lab.machine import CHECKOUT

SOURCES = ("pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", "terwayd", "cli", "etc", "packaging")
Install = Callable[..., tuple[Path, Path]]  # the suite, and packages that are installed besides


@pytest.fixture(scope="session")
def package() -> Path:
    """The .deb of the checkout as it is, built now unless `make deb` has just done it."""
    if os.geteuid() != 0:
        pytest.fail("these tests boot machines: run them as root", pytrace=False)
    for built in (CHECKOUT / "dist").glob("terwayd_*_all.deb"):
        sources = (file for name in SOURCES for file in (CHECKOUT / name, *(CHECKOUT / name).rglob("*")))
        times = (
            file.stat().st_mtime for file in sources if file.is_file() and "__pycache__" not in file.parts
        )
        if max(times) < built.stat().st_mtime and _modules_of(built) == _modules():
            return built
    done = subprocess.run([CHECKOUT / "packaging/build-deb"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return CHECKOUT / done.stdout.split()[-1]


def _modules_of(built: Path) -> set[str]:
    """The modules in a package, by which one that was deleted or renamed is noticed."""
    listed = subprocess.run(
        ["dpkg-deb", "--contents", built], capture_output=True, text=True, check=True
    ).stdout
    names = [line.partition("/dist-packages/")[2] for line in listed.splitlines()]
    return {name for name in names if name.endswith(".py")}


def _modules() -> set[str]:
    found = {
        str(file.relative_to(CHECKOUT))
        for top in ("terwayd", "cli")
        for file in (CHECKOUT / top).rglob("*.py")
    }
    return {name.replace("cli/", "terwayctl/", 1) if name.startswith("cli/") else name for name in found}


@pytest.fixture(scope="session")
def installed(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Install]:
    """Gives the root of a Debian in which `apt install ./terwayd_*.deb` has run, as directories for Booted."""
    directory = tmp_path_factory.mktemp("installed")

    @functools.cache
    def install(suite: str, extra: tuple[str, ...] = ()) -> tuple[Path, Path]:
        base, upper = roots.root(suite, extra), directory / "-".join((suite, *extra))
        with Booted("node", base) as machine:
            machine.interfaces()
            shutil.copyfile(package, machine.path("/root/terwayd.deb"))
            machine.prepare("apt-get install -y --no-install-recommends /root/terwayd.deb")
            machine.save(upper)
        return upper, base

    yield install
    shutil.rmtree(directory)


@pytest.fixture(scope="session")
def next_package(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same package as its next version, whose /etc/terway.toml is another one."""
    tree = tmp_path_factory.mktemp("next") / "tree"
    subprocess.run(["dpkg-deb", "--raw-extract", package, tree], check=True)
    for name, pattern, text in (
        ("DEBIAN/control", r"(?m)^Version: (.*)$", r"Version: \1+next"),
        ("usr/lib/python3/dist-packages/terwayd/__init__.py", r'(__version__ = ".*)"', r'\1+next"'),
        ("etc/terway.toml", r"\A", "# The next version's.\n"),
    ):
        file = tree / name
        file.write_text(re.sub(pattern, text, file.read_text(), count=1))
    sums = "cd $1 && find usr -type f -exec md5sum {} + >DEBIAN/md5sums"
    subprocess.run(["sh", "-ec", sums, "sh", tree], check=True)
    subprocess.run(["dpkg-deb", "--root-owner-group", "--build", tree, tree.parent], check=True)
    shutil.rmtree(tree)
    return next(tree.parent.glob("*.deb"))


@pytest.fixture
def booted(installed: Install, lan: Lan, request: pytest.FixtureRequest) -> Iterator[Booted]:
    """A machine that has booted with the package installed and nothing else done; static 192.168.77.51.

    Debian 12, or the release that an indirect parameter names.
    """
    with Booted("node", *installed(getattr(request, "param", "bookworm"))) as machine:
        machine.boot(lan)
        failed = request.session.testsfailed
        yield machine
        if machine.pid and request.session.testsfailed > failed:
            print(machine.journal("-u", "terwayd", "-u", "terwayd.socket"))
