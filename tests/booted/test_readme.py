"""The README's first five minutes on a bare Debian 12, line by line; what docs/ have for a node; and their units."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.booted import repository, roots
from tests.booted.booted import Booted
from tests.booted.test_package import assert_attached, assert_bridged, attach, network
from tests.core.promlint import problems
from tests.core.test_docs import FENCE, read, to_run
from tests.lab import Lan, eventually

pytestmark = [pytest.mark.booted, pytest.mark.long]

TEXTFILE = "/var/lib/prometheus/node-exporter/terwayd.prom"


def test_the_first_five_minutes(package: Path, lan: Lan) -> None:
    apt_install, doctor, dry_run, enable, status = to_run("README.md", "run: install")
    teardown, disable, purge = to_run("README.md", "run: undo")
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
        for line in to_run("docs/troubleshooting.md", "run: order"):
            command = f"{line} --ignore clock" if "doctor" in line else line
            shown = machine.run(f"cd /root && {command}", check=False)
            assert shown.returncode == 0, shown.stdout + shown.stderr
            if command == "terwayctl logs":
                assert "default/web-0 has" in shown.stdout
        journal = machine.run("tar -xzOf /root/terwayd.tar.gz --wildcards '*/journal.txt'").stdout
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
    [enable] = to_run("docs/metrics.md", "run: timer")
    machine.run(f"systemctl daemon-reload; {enable}")
    eventually(lambda: machine.path(TEXTFILE).exists(), 20, "the timer writes the file")
    assert "terway_pods 1\n" in machine.read(TEXTFILE)


CLUSTERS = {
    "kubernetes": to_run("docs/kubernetes.md", "run: node"),
    "from-cni-terway": to_run("docs/from-cni-terway.md", "run: node"),
}


@pytest.mark.parametrize("name", CLUSTERS)
def test_a_node_of_a_cluster(name: str, package: Path, lan: Lan) -> None:
    """What is typed on the node itself; the cluster's part is in tests/booted/test_kubectl.py."""
    repository.serve(lan, package, roots.root())
    old = ("/etc/cni/net.d/10-cni-terway.conf", "/run/cni/dhcp.sock")
    with Booted("node", roots.root()) as machine:
        machine.interfaces()
        repository.use(machine)
        machine.write("/etc/apt/apt.conf.d/99yes", 'APT::Get::Assume-Yes "true";\n')
        shutil.copyfile(package, machine.path("/root") / package.name)
        machine.boot(lan)
        machine.run("apt-get update", timeout=60)
        before = network(machine)
        for path in old:
            machine.write(path, '{ "name": "mycninet", "cniVersion": "0.3.1", "type": "cni-terway" }\n')
        planned = 0
        for line in CLUSTERS[name]:
            command = f"{line} --ignore clock" if "doctor" in line else line
            done = machine.run(f"cd /root && {command}", check=False, timeout=120)
            planned += done.returncode == 4 and "--dry-run" in line
            assert done.returncode == 0 or "--dry-run" in line, f"{line}\n{done.stdout}{done.stderr}"
        assert planned == (name == "kubernetes")
        eventually(lambda: machine.run("terwayctl status", check=False).returncode == 0, 20, "ready")
        assert [path for path in old if machine.path(path).exists()] == (
            [] if name == "from-cni-terway" else list(old)
        )
        assert_bridged(machine, lan)
        pod = attach(machine, lan)
        pod.delete()
        for line in to_run("docs/kubernetes.md", "run: leave"):
            if not line.startswith("kubectl "):
                machine.run(line)
        assert machine.systemctl("is-enabled", "terwayd", check=False) == "disabled"
        assert before.diff(network(machine)) == []
