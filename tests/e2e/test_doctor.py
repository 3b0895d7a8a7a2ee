"""The doctor in the lab: each check fails for its reason, and is well again after what its hint says."""

from __future__ import annotations

import ctypes
import json
import re
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from tests.e2e.shared import findings_in
from tests.lab import Lan, Node, eventually
from tests.lab.machine import Machine, Place

RELAXED = ("--ignore", "clock")  # the lab's machine may have no time server


@pytest.fixture
def node(lan: Lan) -> Node:
    node = lan.node("n1")
    node.start_daemon().wait_ready()
    return node


def examine(node: Node, *arguments: str) -> dict[str, dict[str, Any]]:
    """The findings by their code; the exit status has to agree with them."""
    done = node.terwayctl("doctor", "--json", *RELAXED, *arguments, check=False)
    return findings_in(done)


def severity(node: Node, group: str, code: str) -> str:
    return str(examine(node, group)[code]["severity"])


def troubled(node: Node, group: str, code: str) -> dict[str, Any]:
    """The finding, empty while there is none."""
    found = examine(node, group)[code]
    return found if found["severity"] in {"warning", "error"} else {}


def follow(node: Node, hint: str) -> None:
    """Do what the hint says: type its commands, and write what it says of the configuration.

    A node has no systemd, so that its daemon is started here.
    """
    for part in hint.split("; "):
        if part in {"systemctl start terwayd", "systemctl restart terwayd"}:
            if node.daemon is not None and node.daemon.running:
                node.daemon.term()
            node.start_daemon().wait_ready()
        elif setting := re.search(r"(\[\w+\]) (\w+ = .+) in (/etc/terway.toml)$", part):
            section, line, file = setting.groups()
            assert section not in node.read(file).splitlines()
            node.write(file, f"{node.read(file)}\n{section}\n{line}\n")
        else:
            node.run(part)


def test_a_healthy_host_before_and_after(lan: Lan) -> None:
    node = lan.node("n1")
    before = examine(node)
    assert before.pop("daemon")["message"] == "terwayd does not run, and the NIC is as it was"
    assert {finding["severity"] for finding in before.values() if not finding["ignored"]} == {"well"}
    assert not node.ip_json("link show type bridge")
    node.start_daemon().wait_ready()
    node.pod("web-0").add()
    after = examine(node)
    assert {finding["severity"] for finding in after.values() if not finding["ignored"]} == {"well"}
    assert "192.168.77.1 (52:54:00:77:00:01" in after["dhcp-servers"]["message"]
    text = node.terwayctl("doctor", "host", *RELAXED).stdout
    assert "host    ✔ daemon            terwayd answers, and finds nothing wrong\n" in text
    assert len(lan.dhcp.leases()) == 1
    refused = node.terwayctl("doctor", "hots", check=False)
    assert (refused.returncode, refused.stderr) == (
        1,
        "error: there is no group hots\nhint: one of: host, kernel, bridge, cni, dhcp, lan\n",
    )
    assert "hint: one of: daemon, " in node.terwayctl("doctor", "--ignore", "x", check=False).stderr


def test_what_is_wrong_on_the_host(lan: Lan, node: Node) -> None:
    pod = node.pod("web-0")
    pod.add()
    port = node.status()["pods"][0]["host_ifname"]
    node.run("for each in iptables ip6tables; do echo 1 >/proc/sys/net/bridge/bridge-nf-call-$each; done")
    broken: list[tuple[str, str, str, str, Callable[[], bool]]] = [
        (
            "bridge",
            "stp",
            "ip link set mybr0 type bridge stp_state 1 forward_delay 1500",
            "STP is on for mybr0: a new pod waits 30 s",
            lambda: "stp_state 0" in node.run("ip -d link show mybr0").stdout,
        ),
        (
            "bridge",
            "stp",
            "ip link set eth0 type bridge_slave state 1",
            "eth0 does not forward in mybr0: state 1",
            lambda: lan.host.ping(pod.address),
        ),
        (
            "bridge",
            "snooping",
            "ip link set mybr0 type bridge mcast_snooping 1",
            "nobody queries",
            lambda: "mcast_snooping 0" in node.run("ip -d link show mybr0").stdout,
        ),
        (
            "kernel",
            "br-netfilter",
            "nft add table inet wall; nft add chain inet wall forward '{ type filter hook forward priority 0; policy drop; }'",
            "these drop them: inet wall forward",
            lambda: lan.host.ping(pod.address),
        ),
        (
            "kernel",
            "br-netfilter",
            "iptables-legacy -N LAST; iptables-legacy -I FORWARD -j LAST; iptables-legacy -A LAST -j DROP",
            "these drop them: iptables-legacy filter FORWARD",
            lambda: lan.host.ping(pod.address),
        ),
        (
            "kernel",
            "br-netfilter",
            "ip6tables-legacy -I FORWARD -i mybr0 -j REJECT",
            "these drop them: ip6tables-legacy filter FORWARD",
            lambda: node.run("ip6tables-legacy -S FORWARD 1").stdout.endswith("-o mybr0 -j ACCEPT\n"),
        ),
        (
            "bridge",
            "mtu",
            f"ip link set {port} mtu 1400",
            f"{port} 1400",
            lambda: node.ip_json(f"link show {port}")[0]["mtu"] == 1500,
        ),
        (
            "bridge",
            "stale-veth",
            "ip link add tw0123456789ab type veth peer twpeer",
            "does not know: tw0123456789ab",
            lambda: not node.run("ip link show tw0123456789ab", check=False).stdout,
        ),
        (
            "cni",
            "network",
            "rm /etc/cni/net.d/10-terway.conflist",
            "/etc/cni/net.d/10-terway.conflist is not there",
            lambda: node.path("/etc/cni/net.d/10-terway.conflist").exists(),
        ),
        (
            "cni",
            "network",
            "echo '{}' >/etc/cni/net.d/05-other.conflist",
            "take the first network in /etc/cni/net.d, which is 05-other.conflist",
            lambda: not node.path("/etc/cni/net.d/05-other.conflist").exists(),
        ),
        (
            "cni",
            "plugin",
            "rm /opt/cni/bin/cni-terway",
            "cni-terway in /opt/cni/bin is missing",
            lambda: node.path("/opt/cni/bin/cni-terway").stat().st_mode & 0o777 == 0o755,
        ),
        (
            "cni",
            "plugin",
            "echo '#!/bin/sh' >/opt/cni/bin/cni-terway",
            "is of another version",
            lambda: "CNI_NETNS" in node.path("/opt/cni/bin/cni-terway").read_text(),
        ),
    ]
    for group, code, command, message, well in broken:
        node.run(command)
        found = examine(node, group)[code]
        assert message in found["message"]
        assert code != "br-netfilter" or not well(), command
        follow(node, found["hint"])
        assert well(), code
        assert severity(node, group, code) == "well", command
    found = examine(node)
    assert {found[code]["severity"] for _, code, *_ in broken} == {"well"}


def test_pods_of_a_larger_mtu(lan: Lan) -> None:
    node = lan.node("n1", "[pods]\nmtu = 9000\n")
    node.start_daemon()
    found = eventually(partial(troubled, node, "bridge", "mtu"), 10)
    assert found["message"] == "pods.mtu is 9000, and mybr0 carries 1500"
    node.write("/etc/terway.toml", "")
    follow(node, found["hint"])
    assert severity(node, "bridge", "mtu") == "well"


def test_other_clients_on_the_nic(lan: Lan, node: Node) -> None:
    for command, group, code, message in (
        (
            ["busybox", "udhcpc", "-f", "-i", "mybr0", "-s", "/bin/true"],
            "host",
            "other-manager",
            "other than terwayd runs on eth0 or mybr0: udhcpc (pid ",
        ),
        (
            ["/usr/lib/cni/dhcp", "daemon", "-socketpath", "/run/dhcp.sock"],
            "cni",
            "cni-dhcp",
            "DHCP daemon of the CNI plugins runs beside terwayd: pid ",
        ),
    ):
        process = node.spawn(command, "/var/log/other.log")
        found = eventually(partial(troubled, node, group, code), 10)
        assert message in found["message"]
        follow(node, found["hint"])
        process.wait()
        assert severity(node, group, code) == "well"


def test_the_carrier_and_the_daemon(lan: Lan, node: Node) -> None:
    lan.unplug(node)
    assert "eth0 has no carrier" in eventually(partial(troubled, node, "host", "uplink"))["message"]
    lan.replug(node)
    assert eventually(lambda: severity(node, "host", "uplink") == "well")
    assert node.daemon is not None
    node.daemon.term()
    refused = node.run("setpriv --reuid=65534 --clear-groups terwayctl doctor host", check=False)
    assert (refused.returncode, refused.stderr.splitlines()[1]) == (6, "hint: sudo terwayctl doctor host")
    found = examine(node, "host")
    assert (found["daemon"]["message"], found["daemon"]["hint"]) == (
        "terwayd does not answer",
        "systemctl start terwayd",
    )
    node.ip("link set eth0 down")
    down = examine(node, "host")["uplink"]
    assert down["message"] == "eth0 is down"
    follow(node, down["hint"])
    follow(node, found["daemon"]["hint"])
    found = examine(node, "host")
    assert (found["uplink"]["severity"], found["daemon"]["severity"]) == ("well", "well")


def test_the_runtime_looks_elsewhere(lan: Lan, node: Node) -> None:
    cni = '[plugins."io.containerd.grpc.v1.cri".cni]\nbin_dir = "{}"\nconf_dir = "/etc/cni/net.d"\n'
    node.write("/etc/containerd/config.toml", cni.format("/usr/lib/cni"))
    assert severity(node, "cni", "runtime") == "well"
    node.write("/etc/containerd/config.toml", cni.format("/srv/cni"))
    found = examine(node, "cni")["runtime"]
    assert "containerd looks for plugins in /srv/cni (/etc/containerd/config.toml)" in found["message"]
    change, command = found["hint"].split(" in /etc/terway.toml; ")
    assert (change, command) == (
        '[cni] bin_dirs = ["/opt/cni/bin", "/srv/cni"]',
        "systemctl restart terwayd",
    )
    node.write("/etc/terway.toml", "")
    follow(node, found["hint"])
    assert severity(node, "cni", "runtime") == "well"
    assert node.path("/srv/cni/cni-terway").exists()
    node.write("/etc/terway.toml", "")
    node.write("/etc/containerd/config.toml", cni.format("/usr/lib/cni").replace("cni/net.d", "cni/other.d"))
    found = examine(node, "cni")["runtime"]
    assert "containerd looks for networks in /etc/cni/other.d" in found["message"]
    follow(node, found["hint"])
    assert severity(node, "cni", "runtime") == severity(node, "cni", "network") == "well"
    assert node.path("/etc/cni/other.d/10-terway.conflist").exists()


def test_a_clock_that_is_behind(node: Node) -> None:
    """The machine's clock cannot be set for one node alone, so it is the doctor that sees another."""
    library = node.run("ls /usr/lib/*/faketime/libfaketime.so.1").stdout.strip()
    behind = {"LD_PRELOAD": library, "FAKETIME": "-3d", "NO_FAKE_STAT": "1", "DONT_FAKE_MONOTONIC": "1"}
    done = node.run("terwayctl doctor host --json", env=behind, check=False)
    found = {finding["code"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert (done.returncode, found["clock"]["severity"]) == (4, "error")
    assert found["clock"]["message"].startswith("the clock is 3 days behind /")
    assert found["clock"]["hint"] == "timedatectl set-ntp true"
    timex = ctypes.create_string_buffer(256)
    ctypes.CDLL(None).adjtimex(timex)
    synchronised = not timex.raw[40] & 0x40  # STA_UNSYNC in the machine's own status
    told = examine(node, "host")["clock"]
    assert (told["severity"], told["message"]) == (
        ("well", "the clock is right")
        if synchronised
        else ("warning", "the clock is not synchronised with any other")
    )


@contextmanager
def filtered(lan: Lan, node: Node, hook: str, rule: str) -> Iterator[None]:
    """A switch that drops some frames at the node's port, as port security does."""
    switch = Place("switch", ("nsenter", "-t", str(lan.switch.pid), "--net", "--"))
    port = f"port{lan.machines.index(node)}"
    text = rule.format(port=port, mac=node.mac_of("eth0"))
    table = f"table bridge security {{ chain c {{ type filter hook {hook} priority 0; {text}; }}; }}"
    switch.run(["nft", "-f", "-"], input=table)
    try:
        yield
    finally:
        switch.run("nft delete table bridge security")


def test_a_switch_that_takes_one_mac_only(lan: Lan, node: Node) -> None:
    """What ESXi does where Forged transmits, then Promiscuous mode, is set to Reject."""
    with filtered(lan, node, "prerouting", 'iifname "{port}" ether saddr != {mac} drop'):
        found = examine(node, "dhcp")
        assert found["dhcp-servers"]["severity"] == "well"
        assert "drops frames of other MAC addresses (port security)" in found["foreign-mac"]["message"]
        assert "set both Promiscuous mode and Forged transmits" in found["foreign-mac"]["hint"]
    rule = 'oifname "{port}" ether daddr != {mac} ether daddr & 01:00:00:00:00:00 == 00:00:00:00:00:00 drop'
    with filtered(lan, node, "postrouting", rule):
        found = examine(node, "dhcp")
        assert "comes by broadcast only" in found["foreign-mac"]["message"]
        assert "set Promiscuous mode of the port group to Accept" in found["foreign-mac"]["hint"]
    assert severity(node, "dhcp", "foreign-mac") == "well"


def rogue(lan: Lan) -> Machine:
    machine = lan.machine("rogue", 66)
    machine.spawn(
        [
            *("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--user=root"),
            *("--interface=eth0", "--bind-interfaces", "--no-ping", "--pid-file="),
            *("--dhcp-leasefile=/run/leases", "--dhcp-range=192.168.77.210,192.168.77.220,2m"),
        ],
        "/var/log/rogue.log",
    )
    return machine


def test_two_servers(lan: Lan, node: Node) -> None:
    rogue(lan)
    found = eventually(partial(troubled, node, "dhcp", "dhcp-servers"), 20)
    assert found["message"].startswith("2 DHCP servers answer: 192.168.77.1 (52:54:00:77:00:01, ")
    assert "192.168.77.66 (" in found["message"]
    assert '[dhcp] servers = ["192.168.77.1"] in /etc/terway.toml; systemctl restart terwayd' in found["hint"]
    node.write("/etc/terway.toml", "")
    follow(node, found["hint"])
    assert severity(node, "dhcp", "dhcp-servers") == "well"


def test_an_address_used_twice(lan: Lan, node: Node) -> None:
    pod = node.pod("web-0")
    pod.add()
    other = lan.machine("other")
    addresses = ("192.168.77.11", str(pod.address))
    for address in addresses:
        other.ip(f"addr add {address}/24 dev eth0")
    found = examine(node, "lan")["duplicate-address"]
    mac = other.mac_of("eth0")
    shown = ", ".join(f"{address} ({mac})" for address in sorted(addresses))
    assert found["message"] == f"another station has the address of this host or of a pod: {shown}"
    other.ip("addr flush dev eth0")
    assert severity(node, "lan", "duplicate-address") == "well"


def test_a_path_that_is_too_narrow(lan: Lan) -> None:
    node = lan.node("n1", mtu=9000)
    found = examine(node, "lan")["path-mtu"]
    assert found["message"] == (
        "eth0 sends packets of 9000 bytes, and 192.168.77.1 answers none larger than 1500"
    )
    assert found["hint"].endswith("or lower the NIC's to 1500")
    node.ip("link set eth0 mtu 1500")
    assert severity(node, "lan", "path-mtu") == "well"


@pytest.mark.long
def test_nobody_answers(lan: Lan, node: Node) -> None:
    """Also where no daemon is there to ask."""
    lan.dhcp.stop()
    for _ in range(2):
        found = examine(node, "dhcp")
        assert found["dhcp-servers"]["message"] == "no DHCP server answered a DISCOVER"
        assert "range is full, or it serves known MAC addresses alone" in found["foreign-mac"]["hint"]
        assert node.daemon is not None
        node.daemon.term()
    with filtered(lan, node, "prerouting", 'iifname "{port}" ether saddr != {mac} drop'):
        lan.dhcp.start()
        assert "(port security)" in examine(node, "dhcp")["foreign-mac"]["message"]
    assert severity(node, "dhcp", "foreign-mac") == "well"
    lan.unplug(lan.gateway)
    found = examine(node)
    assert found["gateway"]["message"] == "the gateway 192.168.77.1 does not answer ARP"
    assert found["foreign-mac"]["severity"] == "unknown"
    lan.replug(lan.gateway)
    assert eventually(lambda: severity(node, "lan", "gateway") == "well", 10)


def test_the_bundle(lan: Lan, node: Node) -> None:
    node.pod("web-0").add()
    node.write("/etc/network/interfaces", "wpa-psk topsecret\n")
    node.terwayctl("doctor", "--bundle", "/root/b.tar.gz", "lan", *RELAXED)
    file = node.path("/root/b.tar.gz")
    assert file.stat().st_mode & 0o777 == 0o600
    with tarfile.open(file) as archive:
        parts = {
            entry.name.partition("/")[2]: archive.extractfile(entry).read().decode()  # type: ignore[union-attr]
            for entry in archive
        }
    assert json.loads(parts["status.json"])["pods"][0]["name"] == "web-0"
    assert json.loads(parts["doctor.json"])["findings"]
    assert "ip link del dev mybr0" in parts["plan-teardown.json"] or "mybr0" in parts["plan-teardown.json"]
    assert "default via 192.168.77.1 dev mybr0" in parts["ip-route.txt"]
    assert "terway_up 1" in parts["metrics.prom"]
    assert "[host]" in parts["terway.toml"]
    assert {"journal.txt", "nft.txt", "tc.txt", "bridge-link.txt"} <= parts.keys()
    assert not any("topsecret" in text for text in parts.values())
    refused = node.terwayctl("doctor", "--bundle", "/nowhere/b", "host", check=False)
    assert (
        refused.stderr
        == "error: cannot write /nowhere/b: No such file or directory\nhint: name another file\n"
    )
