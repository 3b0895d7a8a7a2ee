"""The package on a Debian that boots: installed, enabled, rebooted, upgraded, purged, as a user would."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
from pathlib import Path
from typing import cast

import pytest

from tests.booted import roots
from tests.booted.booted import Booted
from tests.lab import Lan, Node, Place, Pod, ShimError, eventually
from tests.lab.machine import CHECKOUT, ENVIRONMENT
from tests.lab.state import State

pytestmark = pytest.mark.booted

CONFLIST = "/etc/cni/net.d/10-terway.conflist"
PLUGIN = "/opt/cni/bin/cni-terway"


def network(place: Place) -> State:
    """The network of a machine or a pod once duplicate address detection is over, and local routes are there."""

    def usable() -> bool:
        addresses = {
            info["local"] for link in place.ip_json("-6 addr show") for info in link.get("addr_info", [])
        }
        return not place.ip_json("-6 addr show tentative") and addresses <= {
            route["dst"] for route in place.ip_json("-6 route show table local")
        }

    eventually(usable, 5, "all addresses are usable")
    return place.state()


def enable(machine: Booted) -> State:
    """Enable and start the service; returns the network as it was before."""
    before = network(machine)
    machine.systemctl("enable", "--now", "terwayd")
    assert_ready(machine)
    return before


def assert_ready(machine: Booted) -> None:
    status = machine.run(["terwayctl", "status", "--json"], check=False)
    assert status.returncode == 0, status.stdout + status.stderr
    assert json.loads(status.stdout)["state"] == "ready"
    assert machine.property("terwayd", "ActiveState") == "active"


def assert_bridged(machine: Booted, lan: Lan) -> None:
    """The host's address is on the bridge, over the NIC, and in reach of the LAN."""
    assert machine.ip_json("link show eth0")[0]["master"] == "mybr0"
    addresses = [info["local"] for info in machine.ip_json("-4 addr show mybr0")[0]["addr_info"]]
    assert addresses == [machine.address]
    assert lan.host.ping(machine.address, count=3)
    assert machine.ping(lan.world, count=3)


def attach(machine: Booted, lan: Lan, name: str = "web-0") -> Pod:
    """A new pod, attached by the plugin that the daemon has put in place."""
    pod = Pod(cast("Node", machine), name, "default", "", "eth0")
    pod.add()
    assert_attached(pod, lan)
    return pod


def assert_attached(pod: Pod, lan: Lan) -> None:
    lease = lan.dhcp.lease_of(pod.address)
    assert lease is not None
    assert lease.mac == pod.mac
    assert lan.host.ping(pod.address, count=3)
    assert pod.ping(lan.world, count=3)


def main_pid(machine: Booted) -> int:
    return int(machine.property("terwayd", "MainPID"))


def test_an_installation_starts_nothing(booted: Booted) -> None:
    before = network(booted)
    assert (
        booted.systemctl("is-enabled", "terwayd.service", "terwayd.socket", check=False).split()
        == ["disabled"] * 2
    )
    assert (
        booted.systemctl("is-active", "terwayd.service", "terwayd.socket", check=False).split()
        == ["inactive"] * 2
    )
    assert "mybr0" not in booted.run("ip link").stdout
    assert not booted.path(CONFLIST).exists()
    # What it would do can be seen without it.
    planned = booted.run("terwayctl setup --dry-run", check=False)
    assert planned.returncode == 4, planned.stdout + planned.stderr
    assert "mybr0" in planned.stdout
    assert before.diff(network(booted)) == []


def test_units_and_files_are_as_systemd_and_dpkg_want_them(booted: Booted) -> None:
    verified = booted.run("systemd-analyze verify --man=no terwayd.service terwayd.socket", check=False)
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")
    booted.run("systemd-analyze security --threshold=26 terwayd.service")
    assert booted.run("dpkg --verify terwayd").stdout == ""
    assert booted.run("dpkg-query -W -f '${Conffiles}' terwayd").stdout.split()[0] == "/etc/terway.toml"
    for path in ("/usr/sbin/terwayd", "/usr/bin/terwayctl", "/usr/lib/cni/cni-terway"):
        assert booted.path(path).stat().st_mode & 0o777 == 0o755


def test_the_capabilities_of_the_unit_are_enough_outside_of_a_container(tmp_path: Path) -> None:
    """The daemon in the machine's first PID namespace, where process 1 has more capabilities than it.

    The machines of the lab all have a PID namespace of their own.  Network and files are of the test here too.
    """
    unit = (CHECKOUT / "packaging/systemd/terwayd.service").read_text()
    allowed = next(line for line in unit.splitlines() if line.startswith("CapabilityBoundingSet=")).split(
        "="
    )[1]
    keep = ",".join(["-all", *(f"+{name.removeprefix('CAP_').lower()}" for name in allowed.split())])
    script = f"""
        for directory in /run /var/lib /opt; do mount -t tmpfs tmpfs $directory; done
        mkdir /run/upper /run/work
        mount -t overlay -o lowerdir=/etc,upperdir=/run/upper,workdir=/run/work overlay /etc
        exec setpriv --bounding-set={keep} --no-new-privs /usr/bin/python3 -m terwayd --config /dev/null
    """
    namespaces = [
        "setpriv",
        "--pdeathsig",
        "KILL",
        "unshare",
        "--net",
        "--mount",
        "--fork",
        "--kill-child",
        "sh",
        "-ec",
    ]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(f"{tmp_path}/notify")
        notified.settimeout(10)
        as_systemd = {"INVOCATION_ID": "0" * 32, "NOTIFY_SOCKET": f"{tmp_path}/notify"}
        environment = {**ENVIRONMENT, **as_systemd}
        output = (tmp_path / "log").open("w+")
        with (
            output,
            subprocess.Popen(
                [*namespaces, script], cwd=CHECKOUT, env=environment, stdout=output, stderr=subprocess.STDOUT
            ) as process,
        ):
            try:
                while b"READY=1" not in notified.recv(4096):
                    pass
            except TimeoutError:
                pytest.fail((tmp_path / "log").read_text(), pytrace=False)
            finally:
                process.kill()


@pytest.mark.parametrize("booted", ["bookworm", "trixie"], indirect=True)
def test_enabled_once_it_is_there_after_every_boot(booted: Booted, lan: Lan) -> None:
    enable(booted)
    assert_bridged(booted, lan)
    pod = attach(booted, lan)
    address = pod.address
    assert booted.path(PLUGIN).stat().st_mode & 0o111 == 0o111 & booted.path(PLUGIN).stat().st_mode
    assert booted.run("stat -c %a /run/terwayd.sock /var/lib/terwayd").stdout.split() == ["600", "700"]

    booted.reboot()  # and not a command typed
    assert_ready(booted)
    assert_bridged(booted, lan)
    assert attach(booted, lan).address == address

    booted.reboot(crash=True)
    assert_ready(booted)
    assert_bridged(booted, lan)
    assert attach(booted, lan).address == address
    assert "terwayd" not in booted.systemctl("--failed", "--no-legend")


def test_network_online_comes_after_the_bridge(booted: Booted, lan: Lan) -> None:
    booted.write(
        "/etc/systemd/system/witness.service",
        "[Unit]\nWants=network-online.target\nAfter=network-online.target\n"
        "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sh -c 'ip -4 -br addr show mybr0 >/run/witness'\n"
        "[Install]\nWantedBy=multi-user.target\n",
    )
    booted.systemctl("enable", "terwayd", "witness")
    booted.reboot()
    assert_ready(booted)
    assert f"{booted.address}/24" in booted.read("/run/witness")


def test_a_restart_keeps_pods_and_leases(booted: Booted, lan: Lan) -> None:
    enable(booted)
    pod = attach(booted, lan)
    lease, before, around = lan.dhcp.lease_of(pod.address), network(pod), network(booted)
    with lan.host.probe(pod.address) as to_pod, lan.host.probe(booted.address) as to_host:
        booted.systemctl("restart", "terwayd")
        assert_ready(booted)
    assert to_pod.loss is not None
    assert to_host.loss is not None
    assert (to_pod.loss.none, to_host.loss.none) == (True, True), (to_pod.loss, to_host.loss)
    assert before.diff(network(pod)) == []
    assert around.diff(network(booted)) == []
    assert lan.dhcp.lease_of(pod.address) == lease
    assert_attached(pod, lan)
    pod.check()
    pod.delete()
    assert lease is not None
    eventually(lambda: lan.dhcp.lease_of(lease.address) is None, 5, "the lease is given back")


def test_a_killed_daemon_comes_back(booted: Booted, lan: Lan) -> None:
    enable(booted)
    pod = attach(booted, lan)
    killed = main_pid(booted)
    booted.run(f"kill -KILL {killed}")
    eventually(lambda: main_pid(booted) not in (0, killed), 10, "systemd starts the daemon again")
    late = attach(booted, lan, "late-0")  # its call waits on the socket until the daemon answers
    assert_ready(booted)
    assert_attached(pod, lan)
    late.delete()


def test_a_stopped_daemon_stays_stopped_whoever_calls(booted: Booted, lan: Lan) -> None:
    before = enable(booted)
    pod = attach(booted, lan)
    known = booted.read(CONFLIST)
    booted.run("terwayctl teardown --force && systemctl disable --now terwayd")
    eventually(lambda: not booted.path("/run/terwayd.sock").exists(), 5, "the socket is closed")
    assert booted.run("terwayctl status", check=False).returncode == 3
    booted.write(CONFLIST, known)  # a runtime has it in its cache
    with pytest.raises(ShimError, match="terwayd is not running"):
        pod.delete()
    booted.path(CONFLIST).unlink()
    pod.remove()
    assert before.diff(network(booted)) == []
    booted.systemctl("enable", "--now", "terwayd")
    assert_ready(booted)


def test_teardown_and_purge_leave_nothing(booted: Booted, lan: Lan) -> None:
    before = enable(booted)
    pod = attach(booted, lan)
    pod.delete()
    pod.remove()
    booted.run("terwayctl teardown")
    assert before.diff(network(booted)) == []
    assert not booted.path(CONFLIST).exists()
    assert lan.host.ping(booted.address, count=3)

    booted.run("apt-get purge -y terwayd", env={"DEBIAN_FRONTEND": "noninteractive"}, timeout=120)
    assert leftovers(booted) == []
    assert before.diff(network(booted)) == []
    booted.reboot()
    assert before.diff(network(booted)) == []
    assert lan.host.ping(booted.address, count=3)


def test_removal_leaves_the_host_in_reach_and_says_so(booted: Booted, lan: Lan) -> None:
    before = enable(booted)
    foreign = "#!/bin/sh\necho somebody else's plugin\n"
    with lan.host.probe(booted.address) as probe:
        said = booted.run(
            "apt-get remove -y terwayd", env={"DEBIAN_FRONTEND": "noninteractive"}, timeout=120
        ).stdout
    assert probe.loss is not None
    assert probe.loss.none, probe.loss
    assert "the bridge mybr0 keeps working until the next boot" in said
    booted.write("/opt/cni/bin/bridge", foreign, 0o755)
    booted.run(
        "nft add table bridge terwayd; nft add table inet terwayd"
    )  # those that had rules have them still

    booted.run("apt-get purge -y terwayd", env={"DEBIAN_FRONTEND": "noninteractive"}, timeout=120)
    assert leftovers(booted) == []
    assert booted.read("/opt/cni/bin/bridge") == foreign
    assert lan.host.ping(booted.address, count=3)
    booted.reboot()
    assert before.diff(network(booted)) == []


def leftovers(machine: Booted) -> list[str]:
    """Files, units, rules and namespaces of terwayd that are still there; the .deb of the test aside."""
    found = machine.run(
        "find / -xdev -path /root -prune -o -path /var/cache/apt -prune -o -path /var/log -prune -o "
        "\\( -name '*terway*' \\) -print; systemctl list-units --all --no-legend --plain '*terway*'; nft list tables | grep terway; ip netns"
    ).stdout
    return found.splitlines()


@pytest.mark.long
@pytest.mark.parametrize("suite", ["bookworm", "trixie"])
def test_debians_own_test_runner_is_content(suite: str, package: Path, lan: Lan) -> None:
    """autopkgtest, as Debian's CI calls it, on a machine that has it; packaging/deb/tests are the tests."""
    with Booted("ci", roots.root(suite, ("autopkgtest", "dpkg-dev", "dnsmasq-base"))) as machine:
        machine.interfaces()
        shutil.copyfile(package, machine.path("/root/terwayd.deb"))
        machine.prepare(
            "apt-get install -y --no-install-recommends /root/terwayd.deb; systemctl disable dnsmasq"
        )
        shutil.copytree(CHECKOUT / "packaging/deb", machine.path("/root/tree/debian"))
        machine.boot(lan)
        command = "autopkgtest --ignore-restrictions=isolation-container --no-built-binaries /root/terwayd.deb /root/tree -- null"
        done = machine.run(command, check=False, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        assert re.findall(r"(?m)^(\w+) +(PASS|FAIL|SKIP)", done.stdout) == [
            ("smoke", "PASS"),
            ("node", "PASS"),
        ]
