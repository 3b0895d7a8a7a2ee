"""The README's first five minutes on a bare Debian 12, line by line; and the units that docs/ has."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.booted import roots
from tests.booted.booted import Booted
from tests.booted.test_package import assert_attached, assert_bridged, attach, network
from tests.core.promlint import problems
from tests.core.test_docs import FENCE, INDENTED, read
from tests.lab import Lan, eventually

pytestmark = [pytest.mark.booted, pytest.mark.long]

TEXTFILE = "/var/lib/prometheus/node-exporter/terwayd.prom"


def lines(heading: str) -> list[str]:
    """The commands in the first block below a heading of the README."""
    found = INDENTED.search(read("README.md").partition(f"## {heading}\n")[2])
    assert found is not None
    return [line.partition("#")[0].strip() for line in found[0].splitlines() if line.strip()]


def test_the_first_five_minutes(package: Path, lan: Lan) -> None:
    apt_install, doctor, dry_run, enable, status = lines("Install")
    teardown, disable, purge = lines("Undo everything")
    with Booted("node", roots.root()) as machine:
        machine.interfaces()
        machine.write("/etc/apt/apt.conf.d/99yes", 'APT::Get::Assume-Yes "true";\n')
        machine.write("/etc/terway.toml", "", 0o600)
        machine.path("/etc/terway.toml").unlink()
        machine.path("/root/dist").mkdir()
        shutil.copyfile(package, machine.path("/root/dist") / package.name)
        machine.prepare(f"cd /root && {apt_install} --no-install-recommends")
        machine.boot(lan)
        before = network(machine)

        looked = machine.run(f"{doctor} --ignore clock", check=False)
        assert looked.returncode == 0, looked.stdout + looked.stderr
        assert "✔ foreign-mac" in looked.stdout
        planned = machine.run(dry_run, check=False)
        assert (planned.returncode, "ip link set eth0 master mybr0" in planned.stdout) == (4, True)
        assert before.diff(network(machine)) == []

        machine.run(enable)
        eventually(lambda: machine.run(status, check=False).returncode == 0, 20, "ready")
        assert_bridged(machine, lan)
        pod = attach(machine, lan)
        looked = machine.run(f"{doctor} --ignore clock --bundle /root/b.tar.gz", check=False)
        assert looked.returncode == 0, looked.stdout + looked.stderr
        journal = machine.run("tar -xzOf /root/b.tar.gz --wildcards '*/journal.txt'").stdout
        assert "eth0 is under mybr0" in journal
        measured(machine, lan)
        assert_attached(pod, lan)

        pod.delete()
        for command in (teardown, disable, purge):
            machine.run(command)
        assert before.diff(network(machine)) == []
        assert machine.run("ls /usr/bin/terwayctl", check=False).returncode != 0


def measured(machine: Booted, lan: Lan) -> None:
    """Metrics out of the sandbox: by TCP, and by the timer of docs/metrics.md."""
    machine.write("/etc/terway.toml", '[metrics]\nlisten = "0.0.0.0:9753"\n')
    machine.run("systemctl restart terwayd")
    eventually(lambda: machine.run("terwayctl status", check=False).returncode == 0, 20, "ready")
    page = lan.host.run(["curl", "-fsS", f"http://{machine.address}:9753/metrics"]).stdout
    assert "terway_pods 1\n" in page
    assert problems(page) == []
    for _, text in FENCE.findall(read("docs/metrics.md")):
        if found := re.match(r"# (/etc/systemd/system/\S+)\n", text):
            machine.write(found[1], text.replace("15s", "1s"))
    machine.path(TEXTFILE).parent.mkdir(parents=True)
    machine.run("systemctl daemon-reload; systemctl enable --now terwayd-metrics.timer")
    eventually(lambda: machine.path(TEXTFILE).exists(), 20, "the timer writes the file")
    assert "terway_pods 1\n" in machine.read(TEXTFILE)
