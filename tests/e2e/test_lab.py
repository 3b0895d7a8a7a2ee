"""The lab itself: it is a LAN, it shows when something is wrong, and nothing of it outlives its maker."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest

from tests.lab import CommandError, LabError, Lan, ShimError, eventually
from tests.lab.machine import CHECKOUT

# A child process that builds a LAN with a node and a running probe, tells what is up, and waits to be killed.
CHILD = """
import json, os, sys
from tests.lab import Lan
with Lan() as lan:
    node = lan.node("n1")
    pod = node.pod("web-0")
    probe = lan.host.probe("192.168.77.11")
    spaces = [os.readlink(f"/proc/{m.pid}/ns/{kind}") for m in lan.machines for kind in ("net", "mnt", "pid", "uts", "ipc")]
    spaces.append(pod.run("readlink /proc/self/ns/net").stdout.strip())
    works = lan.host.ping("192.168.77.11") and bool(node.dhcp_lease()["address"])
    print(json.dumps({"spaces": spaces, "works": works}), flush=True)
    if sys.argv[1] == "wait":
        sys.stdin.read()
    probe.stop()
"""


@dataclass
class Child:
    """A process that has built a LAN, and all that belongs to it."""

    process: subprocess.Popen[str]

    @classmethod
    def start(cls, mode: str) -> Child:
        environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
        command = [sys.executable, "-c", CHILD, mode]
        pipe = subprocess.PIPE
        return cls(subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment, text=True, cwd="/"))

    def built(self) -> Child:
        told = json.loads(self._output.readline())
        assert told["works"], "the child's LAN does not work"
        self.spaces = set(told["spaces"])
        self.processes = descendants(self.process.pid)
        assert len(self.spaces) == 4 * 5 + 1
        # At least: four times unshare and PID 1, dnsmasq and the probe with an nsenter each.
        assert len(self.processes) >= 12
        return self

    @property
    def _output(self) -> IO[str]:
        assert self.process.stdout is not None
        return self.process.stdout

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self._output.close()
        self.process.wait()

    def assert_gone(self) -> None:
        alive = self.processes & set(running())
        assert not alive, f"left processes: {[command_of(pid) for pid, _ in alive]}"
        left = self.spaces & namespaces()
        assert not left, f"left namespaces: {left}"


def running() -> dict[tuple[int, str], int]:
    """All processes but zombies: (pid, start time) to the parent's pid."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if fields[0] != "Z":
                found[int(entry.name), fields[19]] = int(fields[1])
    return found


def descendants(pid: int) -> set[tuple[int, str]]:
    """The processes below a process."""
    everything = running()
    below: set[tuple[int, str]] = set()
    parents = {pid}
    while parents:
        new = {process for process, parent in everything.items() if parent in parents} - below
        below |= new
        parents = {process for process, _ in new}
    return below


def namespaces() -> set[str]:
    """Every namespace that a process is in."""
    found = set()
    for link in Path("/proc").glob("[0-9]*/ns/*"):
        try:
            found.add(str(link.readlink()))
        except OSError:
            continue
    return found


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return f"{pid}, gone since"


def real_machine() -> dict[str, object]:
    """What of this machine a test must not change."""
    ip = subprocess.run(
        "ip -j link; ip -j addr; ip -j route show table all; ip netns",
        shell=True,
        capture_output=True,
        check=True,
    )
    volatile = ("valid_life_time", "preferred_life_time")
    network = [line for line in ip.stdout.decode().split(",") if not any(word in line for word in volatile)]
    watched = [
        Path(path)
        for path in ("/run", "/run/netns", "/etc/cni", "/opt/cni/bin", "/var/lib/terwayd", "/var/lib/misc")
    ]
    return {
        "network": network,
        "mounts": Path("/proc/self/mountinfo").read_text(),
        "files": {
            str(path): sorted(entry.name for entry in path.iterdir()) for path in watched if path.is_dir()
        },
        "forwarding": Path("/proc/sys/net/ipv4/ip_forward").read_text(),
        "hostname": os.uname().nodename,
    }


def test_machines_reach_each_other_and_the_world(lan: Lan) -> None:
    node = lan.node("n1")
    for target in ("192.168.77.1", "192.168.77.2", "fd77::1", "fd77::2", lan.world, lan.world6):
        assert node.ping(target), f"no answer from {target}"
    assert lan.host.ping("192.168.77.11")
    assert not lan.host.ping("192.168.77.99", timeout=0.2), "something answers for an address that nobody has"


def test_the_server_really_leases(lan: Lan) -> None:
    machine = lan.machine("client")
    lease = machine.dhcp_lease(hostname="printer")
    assert lease["router"] == lan.gateway_ip
    assert lease["lease"] == "120"
    held = lan.dhcp.lease_of(lease["address"])
    assert held is not None
    assert (held.mac, held.hostname) == (machine.mac_of("eth0"), "printer")
    assert list(dict.fromkeys(m.kind for m in lan.dhcp.messages(mac=held.mac))) == [
        "DHCPDISCOVER",
        "DHCPOFFER",
        "DHCPREQUEST",
        "DHCPACK",
    ]


def test_the_server_can_be_another(lan: Lan) -> None:
    machine = lan.machine("client")
    before = machine.dhcp_lease()["address"]
    lan.dhcp.restart(router=None, lease="5m", first="192.168.77.150")
    lease = machine.dhcp_lease()
    assert (lease["router"], lease["lease"]) == ("", "300")
    assert lease["address"] != before, "the address lies outside of the new range"
    lan.dhcp.forget()
    assert lan.dhcp.leases() == []
    lan.dhcp.stop()
    with pytest.raises(CommandError, match="no answer from a DHCP server"):
        machine.dhcp_lease()


def test_a_wrong_server_is_told(lan: Lan) -> None:
    with pytest.raises(LabError, match="bad"):
        lan.dhcp.restart(extra=("--dhcp-option=3,not-an-address/x",))


def test_a_lan_without_dhcp_and_a_node_as_told() -> None:
    with Lan(dhcp=None) as lan:
        node = lan.node(
            "n1",
            "[host]\n",
            ipv6=False,
            addresses=["192.168.77.61/24"],
            setup=["route add 10.9.0.0/16 via 192.168.77.1 table 100"],
            mtu=1400,
        )
        state = node.state()
        assert not any("fd77::" in text or "fe80::" in text for text in state.addresses)
        assert any("10.9.0.0/16" in text and "table=100" in text for text in state.routes)
        assert any("mtu=1400" in text for text in state.links)
        assert lan.host.ping("192.168.77.61")
        assert node.read("/etc/terway.toml") == "[host]\n"
        assert not node.path("/run/systemd").exists()


@pytest.mark.parametrize(
    ("change", "seen"),
    [
        ("addr add 192.168.77.71/24 dev eth0", "+ address eth0"),
        ("addr del 192.168.77.11/24 dev eth0", "- address eth0"),
        (
            "route add 10.1.0.0/16 via 192.168.77.1 table 7",
            "+ route inet dst=10.1.0.0/16 gateway=192.168.77.1 table=7",
        ),
        ("-6 route del default", "- route inet6"),
        ("rule add from 10.1.0.0/16 table 7 priority 99", "+ rule inet"),
        ("link set eth0 address 52:54:00:77:00:99", "- link eth0"),
        ("link set eth0 mtu 1400", "- link eth0"),
        ("link add br0 type bridge", "+ link br0"),
    ],
)
def test_a_state_differs_by_what_was_changed(lan: Lan, change: str, seen: str) -> None:
    node = lan.node("n1")
    before = node.state()
    assert before == node.state()
    assert before.diff(node.state()) == []
    node.run(f"ip {change}")
    assert node.state() != before
    assert any(line.replace("dev=eth0 ", "").startswith(seen) for line in before.diff(node.state()))


def test_a_probe_counts_what_is_lost(lan: Lan) -> None:
    node = lan.node("n1")
    with (
        lan.host.probe("192.168.77.11", interval_ms=2) as quiet,
        lan.host.probe("fd77::11", interval_ms=2) as quiet6,
    ):
        assert lan.host.ping("192.168.77.11", count=2)
    assert quiet.loss is not None
    assert quiet6.loss is not None
    assert (quiet.loss.none, quiet6.loss.none) == (True, True)
    assert quiet.loss.sent > 50
    probe = lan.host.probe("192.168.77.11", interval_ms=2)
    lan.unplug(node)
    assert not lan.host.ping("192.168.77.11", timeout=0.3)
    lan.replug(node)
    eventually(lambda: lan.host.ping("192.168.77.11", timeout=0.2), 5.0)
    loss = probe.stop()
    assert loss.longest_gap > 50
    assert loss.received == loss.sent - len(loss.lost) > 0


def test_commands_that_fail_or_hang_are_told(lan: Lan) -> None:
    with pytest.raises(CommandError, match=r"host: `ls /nowhere` ended with 2\n.*No such file"):
        lan.host.run("ls /nowhere")
    with pytest.raises(LabError, match=r"did not end within 0\.1 s"):
        lan.host.run("sleep 60", timeout=0.1)
    eventually(
        lambda: "sleep" not in lan.host.run("ps -e -o comm").stdout, 2.0, "the hanging command is gone"
    )
    with pytest.raises(LabError, match=r"not within 0\.05 s: never; last seen: False"):
        eventually(lambda: False, 0.05, "never")


def test_a_runtime_runs_the_plugin(lan: Lan) -> None:
    """Shown with a plugin that fails and one that tells what it was given: the real one has tests of its own."""
    node = lan.node("n1")
    node.write(
        "/etc/cni/net.d/10-terway.conflist",
        json.dumps({"cniVersion": "1.0.0", "name": "terway", "plugins": [{"type": "cni-terway"}]}),
    )
    pod = node.pod("web-0", namespace="shop")
    node.write(
        "/opt/cni/bin/cni-terway", '#!/bin/sh\necho \'{"code": 11, "msg": "no lease"}\'\nexit 1\n', 0o755
    )
    with pytest.raises(ShimError) as failure:
        pod.add()
    assert (failure.value.code, failure.value.msg, failure.value.rc) == (11, "no lease", 1)
    tell = "import json, os, sys; print(json.dumps({'env': dict(os.environ), 'stdin': json.load(sys.stdin)}))"
    node.write("/opt/cni/bin/cni-terway", f"#!/usr/bin/python3\n{tell}\n", 0o755)
    told = pod.add(cni_version="0.4.0")
    assert told["stdin"] == {"cniVersion": "0.4.0", "name": "terway", "type": "cni-terway"}
    assert told["env"]["CNI_ARGS"].startswith("IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;")
    assert node.path(told["env"]["CNI_NETNS"]).exists()
    assert pod.run("ip -br link").stdout.split()[0] == "lo", "a new pod has nothing but its loopback"


def test_a_new_node_is_a_clean_debian_with_the_package(lan: Lan) -> None:
    node = lan.node("n1")
    assert node.run("terwayd --no-such-option", check=False).returncode != 0
    assert (
        node.run("ls -A /etc/cni/net.d /opt/cni/bin /var/lib/terwayd /run/netns /tmp").stdout.count("\n") < 12
    )
    node.write("/usr/bin/left-behind", "x")
    node.run("touch /etc/left-behind /var/lib/left-behind /run/left-behind /tmp/left-behind")
    for directory in ("/usr/bin", "/etc", "/var/lib", "/run", "/tmp"):
        assert not Path(directory, "left-behind").exists()
    assert node.run("hostname").stdout == "n1\n"
    assert Path(node.run("readlink -f /usr/lib/terwayd/terwayctl").stdout.strip()) == CHECKOUT / "cli"


def test_the_real_machine_is_untouched() -> None:
    before = real_machine()
    with Lan() as lan:
        node = lan.node("n1")
        node.pod("web-0")
        node.ip("link add br0 type bridge", "link set eth0 master br0")
        assert real_machine() == before
    assert real_machine() == before


@pytest.mark.alone  # a number of a namespace that is gone is given to the next one, be it another test's
def test_a_lan_ends_with_its_block_or_its_maker() -> None:
    for mode in ("end", "wait"):
        child = Child.start(mode).built() if mode == "wait" else Child.start(mode)
        if mode == "end":
            child.spaces, child.processes = set(json.loads(child._output.readline())["spaces"]), set()
            assert child.process.wait() == 0
        else:
            child.process.send_signal(signal.SIGKILL)
        child.close()
        eventually(never_raises(child.assert_gone), 5.0, f"a LAN is gone after {mode}")


@pytest.mark.alone
def test_six_lans_at_once_and_thirty_crashed_ones_leave_nothing() -> None:
    before = real_machine()
    for _ in range(5):
        batch = [Child.start("wait") for _ in range(6)]
        for child in batch:
            child.built()
        assert len(set.union(*(child.spaces for child in batch))) == 6 * 21, "two LANs share a namespace"
        for child in batch:
            child.process.send_signal(signal.SIGKILL)
            child.close()
        for child in batch:
            eventually(never_raises(child.assert_gone), 20.0, "a crashed LAN is gone")
    assert real_machine() == before


@pytest.mark.alone
def test_a_lan_is_up_quickly() -> None:
    begin = time.monotonic()
    with Lan() as lan:
        up = time.monotonic()
        lan.node("n1")
        node = time.monotonic()
    assert up - begin < 1.5
    assert node - up < 0.5


def never_raises(check: Callable[[], None]) -> Callable[[], bool]:
    def done() -> bool:
        check()
        return True

    return done
