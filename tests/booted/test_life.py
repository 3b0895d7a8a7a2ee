"""The life of the package on a booted machine with twenty pods: upgraded, downgraded, hung, rebooted, purged."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from typing import cast

import pytest

from tests.booted import roots
from tests.booted.booted import Booted
from tests.booted.test_package import (
    assert_attached,
    assert_bridged,
    assert_ready,
    enable,
    leftovers,
    main_pid,
    network,
)
from tests.lab import Lan, Node, Pod, ShimError, eventually

pytestmark = pytest.mark.booted

CONFIG = "/etc/terway.toml"
PODS = 20
RELEASES = ["bookworm", pytest.param("trixie", marks=pytest.mark.long)]
APT = "apt-get install -y -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold"
QUIET = {"DEBIAN_FRONTEND": "noninteractive"}


@dataclass(slots=True)
class Traffic:
    """What a loop of ADD and DEL came to; `slowest` is its longest call in seconds."""

    calls: int = 0
    slowest: float = 0.0
    failures: list[str] = field(default_factory=list)


@contextmanager
def traffic(machine: Booted, loops: int = 3) -> Iterator[Traffic]:
    """Pods come and go in some loops at once until the block ends."""
    seen, ended = Traffic(), threading.Event()

    def loop(number: int) -> None:
        pod = Pod(cast("Node", machine), f"loop-{number}", "default", "", "eth0")
        while not ended.is_set():
            try:
                for verb in (pod.add, pod.delete):
                    verb()
                    seen.calls += 1
                    seen.slowest = max(seen.slowest, pod.seconds)
            except ShimError as error:
                seen.failures.append(str(error))
        pod.remove()

    threads = [threading.Thread(target=loop, args=(number,)) for number in range(loops)]
    for thread in threads:
        thread.start()
    try:
        yield seen
        reached = seen.calls
        eventually(lambda: seen.failures or seen.calls > reached + 4 * loops, 30, "calls after it")
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def leases(machine: Booted) -> dict[str, str]:
    told = json.loads(machine.run("terwayctl leases --json").stdout)["leases"]
    return {lease["name"]: lease["address"] for lease in told if not lease["name"].startswith("loop-")}


def version(machine: Booted) -> str:
    return str(json.loads(machine.run("terwayctl status --json", check=False).stdout)["version"])


@pytest.mark.alone
@pytest.mark.parametrize("booted", RELEASES, indirect=True)
def test_twenty_pods_outlive_whatever_becomes_of_the_package(
    booted: Booted, lan: Lan, next_package: Path
) -> None:
    assert booted.run("dpkg --verify terwayd").stdout == ""
    shutil.copyfile(next_package, booted.path("/root/next.deb"))
    before = enable(booted)
    pods = [Pod(cast("Node", booted), f"web-{n}", "default", "", "eth0") for n in range(PODS)]
    for pod in pods:
        pod.add()
    held = leases(booted)
    assert held == {pod.pod_name: f"{pod.address}/24" for pod in pods}
    first = pods[0]
    upgrade(booted, lan, first.address)
    assert leases(booted) == held
    tell_by_the_journal(booted, first)
    reload(booted)
    replace_what_hangs(booted)
    assert leases(booted) == held
    downgrade(booted, lan, first.address)
    assert leases(booted) == held
    for pod in (first, pods[-1]):
        pod.check()
        assert_attached(pod, lan)

    booted.reboot()
    assert_ready(booted)
    assert_bridged(booted, lan)
    assert "terwayd" not in booted.systemctl("--failed", "--no-legend")
    said = booted.run("apt-get remove -y terwayd", env=QUIET, timeout=120).stdout
    assert "the bridge mybr0 keeps working until the next boot" in said
    assert_bridged(booted, lan)
    booted.run("apt-get purge -y terwayd", env=QUIET, timeout=120)
    assert leftovers(booted) == []
    booted.reboot()
    assert before.diff(network(booted)) == []
    assert leftovers(booted) == []


def upgrade(machine: Booted, lan: Lan, address: IPv4Address) -> None:
    """To the next version under load: no packet lost, no call failed, and what an administrator wrote stays."""
    machine.write(CONFIG, mine := "[dhcp]\nvendor_class = 'mine'\n")
    old, pid = version(machine), main_pid(machine)
    since = machine.property("terwayd.socket", "ActiveEnterTimestampMonotonic")
    with (
        lan.host.probe(address, 1) as to_pod,
        lan.host.probe(machine.address, 1) as to_host,
        traffic(machine) as seen,
    ):
        machine.run(f"{APT} /root/next.deb", env=QUIET, timeout=120)
    print(
        f"upgrade: pod {to_pod.loss}, host {to_host.loss}; {seen.calls} calls, slowest {seen.slowest:.2f} s"
    )
    assert seen.failures == []
    assert to_pod.loss is not None
    assert to_host.loss is not None
    assert (to_pod.loss.none, to_host.loss.none) == (True, True), (to_pod.loss, to_host.loss)
    assert main_pid(machine) not in (0, pid)
    assert machine.property("terwayd.socket", "ActiveEnterTimestampMonotonic") == since
    assert version(machine) == f"{old}+next"
    assert_ready(machine)
    assert machine.read(CONFIG) == mine
    assert machine.run("dpkg --verify terwayd").stdout.split() == ["??5??????", "c", CONFIG]


def tell_by_the_journal(machine: Booted, pod: Pod) -> None:
    """The lines about one pod are found by it, and journalctl -x explains them."""
    lines = machine.run("journalctl -o json TERWAY_POD=default/web-0").stdout.splitlines()
    told = [json.loads(line) for line in lines]
    assert [line["MESSAGE"].partition(" from ")[0] for line in told] == [
        f"default/web-0 has {pod.address}/24"
    ]
    assert (told[0]["TERWAY_MAC"], told[0]["TERWAY_IP"]) == (pod.mac, str(pod.address))
    explained = machine.run("journalctl -x TERWAY_POD=default/web-0").stdout
    assert f"Pod default/web-0 has the address {pod.address}" in explained
    assert machine.run(f"journalctl --list-catalog {told[0]['MESSAGE_ID']}").stdout.count("terwayd") == 1


def reload(machine: Booted) -> None:
    """systemctl reload applies a file that is right, and fails with one that is wrong: the daemon goes on."""
    pid, mine = main_pid(machine), machine.read(CONFIG)
    machine.write(CONFIG, mine + "hostname = false\n")
    machine.systemctl("reload", "terwayd")
    assert "in force: dhcp.hostname" in machine.journal("-u", "terwayd")
    machine.write(CONFIG, "[dhcp]\nhostnam = true\n")
    with pytest.raises(Exception, match="failed"):
        machine.systemctl("reload", "terwayd")
    assert 'hint: did you mean "hostname"?' in machine.journal("-u", "terwayd")
    assert "stays in force" in machine.run("terwayctl status").stdout
    machine.write(CONFIG, mine)
    machine.systemctl("reload", "terwayd")
    assert_ready(machine)
    assert main_pid(machine) == pid


def replace_what_hangs(machine: Booted) -> None:
    """The watchdog ends a daemon that does nothing any more, and the next one has all that it had."""
    machine.write("/run/systemd/system/terwayd.service.d/quick.conf", "[Service]\nWatchdogSec=2\n")
    machine.systemctl("daemon-reload")
    machine.systemctl("restart", "terwayd")
    hung = main_pid(machine)
    machine.run(f"kill -STOP {hung}")
    eventually(lambda: main_pid(machine) not in (0, hung), 30, "the watchdog has the daemon replaced", 0.1)
    eventually(lambda: machine.run("terwayctl status", check=False).returncode == 0, 20, "ready")
    assert "Watchdog timeout" in machine.journal("-u", "terwayd")
    machine.path("/run/systemd/system/terwayd.service.d/quick.conf").unlink()
    machine.systemctl("daemon-reload")
    machine.systemctl("restart", "terwayd")


def downgrade(machine: Booted, lan: Lan, address: IPv4Address) -> None:
    """An older version that meets a newer one's database says what to do, once; the pods are not touched."""
    machine.run(
        "python3 - <<'.'\nimport sqlite3\nsqlite3.connect('/var/lib/terwayd/state.db').execute('PRAGMA user_version = 9')\n."
    )
    with lan.host.probe(address, 1) as probe:
        said = machine.run(f"{APT} --allow-downgrades /root/terwayd.deb", env=QUIET, timeout=120).stdout
        assert "state.db was written by a newer terwayd (format 9, this one knows" in said
        assert "hint: install that version again" in said
        assert machine.property("terwayd", "ActiveState") == "failed"
        assert machine.property("terwayd", "NRestarts") == "0"
        eventually(lambda: not machine.path("/run/terwayd.sock").exists(), 5, "nobody waits for it in vain")
        machine.run(
            "python3 - <<'.'\nimport sqlite3\nsqlite3.connect('/var/lib/terwayd/state.db').execute('PRAGMA user_version = 1')\n."
        )
        machine.systemctl("start", "terwayd")
    assert probe.loss is not None
    assert probe.loss.none, probe.loss
    assert_ready(machine)


@pytest.mark.parametrize("suite", RELEASES)
def test_a_root_without_systemd_is_as_it_was_before(suite: str, package: Path, next_package: Path) -> None:
    """As piuparts does it: install, upgrade, remove, purge where nothing runs, and the files compared."""
    with Booted("chroot", roots.root(suite)) as root:
        root.prepare(f"apt-get install -y --no-install-recommends {' '.join(roots.AVAILABLE)}")
        shutil.copyfile(package, root.path("/root/terwayd.deb"))
        shutil.copyfile(next_package, root.path("/root/next.deb"))
        assert root.prepare("test -d /run/systemd/system || echo no systemd") == "no systemd\n"
        before = files(root)
        root.prepare("apt-get install -y /root/terwayd.deb && dpkg --verify terwayd")
        installed = files(root)
        assert {"/usr/sbin/terwayd", "/usr/lib/systemd/system/terwayd.service", CONFIG} <= installed.keys()
        new = installed.keys() - before.keys()
        assert not [
            path for path in new if path.startswith(("/etc/systemd", "/etc/cni", "/opt", "/var/lib/terwayd"))
        ]
        root.prepare(f"{APT} /root/next.deb && dpkg --verify terwayd")
        assert {path for path in files(root) if "__pycache__" not in path} == {
            path for path in installed if "__pycache__" not in path
        }
        root.prepare("apt-get remove -y terwayd")
        kept = files(root).items() - before.items()
        assert {path for path, _ in kept if not path.startswith("/var/lib/")} == {CONFIG}
        root.prepare("apt-get purge -y terwayd")
        assert files(root) == before


def files(root: Booted) -> dict[str, str]:
    """Every file with its kind, mode, owner and size, save what dpkg, apt and their logs have."""
    skipped = (
        "/proc",
        "/sys",
        "/dev",
        "/run",
        "/tmp",
        "/var/lib/dpkg",
        "/var/lib/apt",
        "/var/cache",
        "/var/log",
    )
    pruned = " -o ".join(f"-path {path}" for path in skipped)
    listed = root.prepare(
        f"find / -xdev \\( {pruned} \\) -prune -o -not -type d -printf '%p %y %m %u %s %l\\n' -o -printf '%p %y %m %u\\n'"
    )
    return dict(line.split(" ", 1) for line in listed.splitlines() if " " in line)
