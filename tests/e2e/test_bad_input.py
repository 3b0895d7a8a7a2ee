"""What people get wrong: the configuration, the NIC, the runtime's call.  Each is told by its name, and changes nothing."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping
from typing import Any

import pytest

from tests.e2e import shared
from tests.lab import ApiError, Lan, Node, Pod, ShimError, eventually

lan = shared.lan


@pytest.fixture(scope="module")
def wrong(lan: Lan) -> Node:
    """A node whose configuration is wrong, each time in another way."""
    return lan.node("wrong")


@pytest.fixture(scope="module")
def node(lan: Lan) -> Node:
    """A node that is well."""
    node = lan.node("well", '[dhcp]\ntimeout = "2s"\n')
    node.start_daemon().wait_ready()
    return node


# The configuration.


@pytest.mark.parametrize(
    ("text", "error", "hint"),
    [
        ("[host]\nuplnk = 'eth0'\n", "unknown host.uplnk", 'did you mean "uplink"?'),
        ("[hosst]\n", "unknown [hosst]", 'did you mean "host"?'),
        ("[host]\nuplink = 7\n", "host.uplink = 7 is wrong: expected a string", "mend uplink under [host]"),
        ("[host]\nuplink = 'eth0/1'\n", "host.uplink = 'eth0/1' is wrong", "mend uplink under [host]"),
        ("[dhcp]\ntimeout = 60\n", "dhcp.timeout = 60 is wrong: expected a time such as", "mend timeout"),
        ("[host]\nuplink = eth0\n", "/etc/terway.toml is not TOML: ", "mend that line"),
        ("\x00", "/etc/terway.toml is not TOML: ", "mend that line"),
    ],
)
def test_a_configuration_that_is_wrong_ends_the_daemon(wrong: Node, text: str, error: str, hint: str) -> None:
    before = wrong.state()
    wrong.write("/etc/terway.toml", text)
    done = wrong.run("/usr/sbin/terwayd", check=False)
    assert done.returncode == 78
    told = [line for line in done.stderr.splitlines() if line.startswith(("error: ", "hint: "))]
    assert told[0].startswith("error: /etc/terway.toml")
    assert error in told[0]
    assert hint in told[1]
    assert "Traceback" not in done.stderr
    assert wrong.state() == before


def test_a_configuration_that_cannot_be_read(wrong: Node) -> None:
    wrong.path("/etc/terway.toml").write_bytes(b'[host]\nuplink = "\xff"\n')
    done = wrong.run("/usr/sbin/terwayd", check=False)
    assert done.returncode == 78
    assert "error: /etc/terway.toml cannot be read: " in done.stderr
    done = wrong.run("/usr/sbin/terwayd --config /etc", check=False)
    assert done.returncode == 78
    assert "error: /etc cannot be read: " in done.stderr


# The NIC.

UPLINKS = {
    "one that does not exist": ("nic7", "", "there is no interface 'nic7' on this host", "to one of"),
    "the loopback": ("lo", "", "lo is the loopback interface", ""),
    "a bridge": ("br7", "link add br7 type bridge", "br7 is a bridge itself", ""),
    "one in a bridge": (
        "eth0",
        "link add br7 type bridge; link set eth0 master br7",
        "eth0 is a port of the bridge br7 already",
        "",
    ),
    "one that carries another": (
        "eth0",
        "link add mv7 link eth0 type macvlan",
        "eth0 carries mv7, which would fall silent",
        "",
    ),
    "no Ethernet": ("tun7", "tuntap add tun7 mode tun; link set tun7 up", "tun7 ", ""),
}


def test_a_wireless_nic_must_not_be_taken(wrong: Node) -> None:
    """No kernel module makes one here; what the daemon looks at is the directory that each of them has."""
    wrong.write("/etc/terway.toml", '[host]\nuplink = "eth0"\n')
    wrong.run("mount -t tmpfs tmpfs /sys/class/net && mkdir -p /sys/class/net/eth0/wireless")
    before = wrong.state()
    daemon = wrong.start_daemon().wait_state("degraded")
    try:
        assert "host.uplink: eth0 is wireless" in wrong.terwayctl("status", check=False).stdout
        assert wrong.state().diff(before) == []
    finally:
        daemon.term()
        wrong.run("umount /sys/class/net")


@pytest.mark.parametrize("kind", UPLINKS)
def test_a_nic_that_must_not_be_taken(wrong: Node, kind: str) -> None:
    uplink, setup, reason, hint = UPLINKS[kind]
    wrong.write("/etc/terway.toml", f'[host]\nuplink = "{uplink}"\n')
    if setup:
        wrong.ip(*setup.split("; "))
    before = wrong.state()
    daemon = wrong.start_daemon().wait_state("degraded")
    try:
        message = f"host.uplink: {reason}"
        status = wrong.status()
        assert message in status["reason"]
        told = wrong.terwayctl("status", check=False)
        assert told.returncode == 4
        assert message in told.stdout
        finding = next(finding for finding in status["findings"] if message in finding["message"])
        assert "host.uplink" in finding["hint"]
        assert hint in finding["hint"]
        refused = wrong.terwayctl("setup", "--yes", check=False)
        assert refused.returncode == 1
        assert f"error: {message}" in refused.stderr
        assert "hint: " in refused.stderr
        assert wrong.state().diff(before) == []
        assert not wrong.path("/etc/cni/net.d/10-terway.conflist").exists()
        assert daemon.running
    finally:
        daemon.term()
        wrong.run(
            "ip link set eth0 nomaster; ip link del br7; ip link del mv7; ip link del tun7", check=False
        )
    assert "Traceback" not in daemon.log()


def test_a_bridge_of_someone_else(wrong: Node) -> None:
    wrong.write("/etc/terway.toml", "")
    wrong.ip("link add mybr0 type bridge")
    before = wrong.state()
    daemon = wrong.start_daemon().wait_state("degraded")
    try:
        assert "host.bridge: there is an interface mybr0 already" in wrong.status()["reason"]
        assert wrong.state() == before
    finally:
        daemon.term()
        wrong.ip("link del mybr0")


def test_a_nic_that_comes_later_is_waited_for(wrong: Node) -> None:
    wrong.write("/etc/terway.toml", '[host]\nuplink = "eth7"\n')
    daemon = wrong.start_daemon().wait_state("degraded")
    try:
        wrong.ip(
            "link add eth7 type veth peer name eth8",
            "link set eth8 up",
            "link set eth7 up",
            "addr add 198.51.100.7/24 dev eth7",
        )
        daemon.wait_ready(20)
        wrong.terwayctl("teardown")
    finally:
        daemon.term()
        wrong.ip("link del eth7")


@pytest.mark.parametrize("key", ["bin_dirs", "conf_dir"])
def test_a_directory_that_is_none(wrong: Node, key: str) -> None:
    value = '["/etc/passwd"]' if key == "bin_dirs" else '"/etc/passwd"'
    wrong.write("/etc/terway.toml", f"[cni]\n{key} = {value}\n")
    daemon = wrong.start_daemon().wait_state("degraded")
    try:
        assert f"cni.{key}: cannot write /etc/passwd/" in wrong.status()["reason"]
        assert wrong.terwayctl("status", check=False).returncode == 4
        assert "Traceback" not in daemon.log()
    finally:
        wrong.terwayctl("teardown")
        daemon.term()


@pytest.mark.parametrize("content", ["garbage", "row"])
def test_a_state_database_that_means_nothing(wrong: Node, content: str) -> None:
    """It costs what was in it, never the node."""
    wrong.write("/etc/terway.toml", "")
    wrong.run("rm -rf /var/lib/terwayd/*")
    if content == "garbage":
        wrong.write("/var/lib/terwayd/state.db", "this is no database\n" * 500)
    else:
        code = (
            "from terwayd.store import *; from terwayd.clock import epoch;"
            "Store().write_attachment(('terway', 'x', 'eth0'), AttachmentRecord({'no': 'pod'}, {'no': 'lease'}, epoch()))"
        )
        wrong.run(["/usr/bin/python3", "-c", code])
    daemon = wrong.start_daemon()
    try:
        daemon.wait_ready()
        assert "Traceback" not in daemon.log()
        assert "/var/lib/terwayd" in daemon.log(), "it is told"
    finally:
        if daemon.running:
            wrong.terwayctl("teardown")
            daemon.term()
        wrong.run("rm -rf /var/lib/terwayd/*")


def test_a_state_database_that_is_lost_while_the_host_is_bridged(lan: Lan) -> None:
    """The kernel tells all of it: the NIC's alias, the bridge, the veths and their aliases."""
    node = lan.node("lost")
    before = node.state()
    node.start_daemon().wait_ready()
    assert node.daemon is not None
    node.daemon.kill9()
    node.run("rm -f /var/lib/terwayd/*")
    daemon = node.start_daemon().wait_ready()
    node.terwayctl("teardown")
    assert node.state().diff(before) == []
    daemon.term()


def test_a_journal_of_another_version(lan: Lan) -> None:
    """Its plan has steps that nobody knows here: what the kernel tells is enough."""
    node = lan.node("other")
    before = node.state()
    daemon = node.start_daemon().wait_ready()
    daemon.kill9()
    change = "UPDATE takeover SET plan = replace(plan, 'Enslave', 'Embrace')"
    script = (
        f"import sqlite3; d = sqlite3.connect('/var/lib/terwayd/state.db'); d.execute({change!r}); d.commit()"
    )
    node.run(["/usr/bin/python3", "-c", script])
    daemon = node.start_daemon().wait_ready()
    assert "cannot be read" in daemon.log()
    node.terwayctl("teardown")
    assert node.state().diff(before) == []
    daemon.term()


# The runtime's call.

CONFIG = '{"cniVersion":"1.0.0","name":"terway","type":"cni-terway"}'


def shim(
    node: Node, stdin: str = CONFIG, plugin: str = "/usr/lib/cni/cni-terway", **environment: str
) -> subprocess.CompletedProcess[str]:
    return node.run([plugin], input=stdin, env=environment, check=False)


def told(done: subprocess.CompletedProcess[str], code: int, *words: str) -> Mapping[str, Any]:
    """The error object that was printed: this code, these words."""
    assert done.returncode == 1, done.stdout
    assert done.stderr == ""
    error: dict[str, Any] = json.loads(done.stdout)
    assert error["code"] == code, error
    for word in words:
        assert word in error["msg"] + error.get("details", ""), error
    return error


def environment(pod: Pod, **changes: str) -> dict[str, str]:
    asked = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": pod.container_id,
        "CNI_NETNS": f"/run/netns/{pod.netns}",
        "CNI_IFNAME": "eth0",
        "CNI_PATH": "/opt/cni/bin",
        **changes,
    }
    return {key: value for key, value in asked.items() if value}


def test_without_a_daemon(wrong: Node) -> None:
    wrong.run("rm -f /run/terwayd.sock")
    pod = wrong.pod("web-0")
    for verb in ("ADD", "DEL", "CHECK"):
        error = told(shim(wrong, **environment(pod, CNI_COMMAND=verb)), 11, "terwayd is not running")
        assert error["details"] == "hint: systemctl start terwayd"
        assert error["cniVersion"] == "1.0.0"
    version = shim(wrong, CNI_COMMAND="VERSION")
    assert version.returncode == 0
    assert json.loads(version.stdout)["cniVersion"] == "1.0.0"


def test_without_a_command_it_says_what_it_is(node: Node) -> None:
    done = shim(node)
    assert (done.returncode, done.stdout) == (0, "")
    assert "1.1.0" in done.stderr


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"CNI_NETNS": ""}, 4, ["CNI_NETNS"]),
        (
            {"CNI_NETNS": "", "CNI_IFNAME": "", "CNI_CONTAINERID": ""},
            4,
            ["CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME"],
        ),
        ({"CNI_NETNS": "/run/netns/gone"}, 4, ["CNI_NETNS", "/run/netns/gone", "No such file"]),
        ({"CNI_NETNS": "/etc/passwd"}, 4, ["CNI_NETNS=/etc/passwd is not a network namespace"]),
        ({"CNI_NETNS": "/etc"}, 4, ["CNI_NETNS=/etc is not a network namespace"]),
        ({"CNI_NETNS": "/dev/null"}, 4, ["CNI_NETNS=/dev/null is not a network namespace"]),
        ({"CNI_NETNS": "/proc/self/ns/mnt"}, 4, ["is not a network namespace"]),
        (
            {"CNI_NETNS": "/proc/1/ns/net"},
            8,
            ["CNI_NETNS=/proc/1/ns/net is the node's own network namespace"],
        ),
        ({"CNI_IFNAME": "lo"}, 4, ["CNI_IFNAME=lo exists already in"]),
        ({"CNI_IFNAME": "sixteen-letters-"}, 4, ["CNI_IFNAME='sixteen-letters-' is no interface name"]),
        ({"CNI_IFNAME": "a/b"}, 4, ["CNI_IFNAME='a/b' is no interface name"]),
        ({"CNI_IFNAME": "a%d"}, 4, ["CNI_IFNAME='a%d' is no interface name"]),
        ({"CNI_CONTAINERID": "../x"}, 4, ["CNI_CONTAINERID='../x'"]),
        ({"CNI_COMMAND": "UPDATE"}, 4, ["CNI_COMMAND='UPDATE' is none of ADD"]),
        ({"CNI_ARGS": "MAC=01:00:5e:00:00:01"}, 4, ["MAC='01:00:5e:00:00:01'"]),
    ],
)
def test_a_call_that_is_wrong(node: Node, changes: dict[str, str], code: int, words: list[str]) -> None:
    pod = node.pod("web-0")
    before = node.state()
    inside = pod.run("ip addr").stdout
    told(shim(node, **environment(pod, **changes)), code, *words)
    assert node.state() == before
    assert pod.run("ip addr").stdout == inside
    assert node.status()["pods"] == []


@pytest.mark.parametrize(
    ("stdin", "code", "words"),
    [
        ("", 6, ["standard input is no network configuration"]),
        ("garbage", 6, ["standard input is no network configuration"]),
        ("[]", 6, ["a list, not an object"]),
        ('{"cniVersion":"1.0.0"', 6, ["standard input is no network configuration"]),
        ('{"cniVersion":"9.0.0","name":"terway"}', 1, ["cniVersion '9.0.0' is not supported", "1.1.0"]),
        ('{"cniVersion":"1.0.0"}', 7, ["name"]),
        ('{"cniVersion":"1.0.0","name":"a/b"}', 7, ["'a/b'"]),
        ('{"cniVersion":"1.0.0","name":"' + "x" * (1 << 20) + '"}', 7, ["exceeds 1048576 bytes"]),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else None,
)
def test_a_configuration_of_the_runtime_that_is_wrong(
    node: Node, stdin: str, code: int, words: list[str]
) -> None:
    pod = node.pod("web-0")
    told(shim(node, stdin, **environment(pod)), code, *words)
    assert node.status()["pods"] == []


def test_names_that_are_no_utf_8(node: Node) -> None:
    """They come as bytes; what is odd about them is not the pod's fault."""
    pod = node.pod("web-0")
    args = "K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-\udcff"
    done = shim(node, **environment(pod, CNI_ARGS=args))
    assert done.returncode == 0, done.stdout
    assert lease_names(node) == ["web-?"]
    assert shim(node, **environment(pod, CNI_COMMAND="DEL", CNI_ARGS=args)).returncode == 0


def lease_names(node: Node) -> list[str]:
    return [lease["name"] for lease in node.api("Leases")["leases"]]


def test_an_interface_that_is_there_already_stays(node: Node, lan: Lan) -> None:
    pod = node.pod("web-0")
    pod.run(
        "ip link add eth0 type veth peer name other; ip addr add 198.51.100.9/24 dev eth0; ip link set eth0 up"
    )
    inside = pod.run("ip -d addr show eth0; ip route").stdout
    with pytest.raises(ShimError) as caught:
        pod.add()
    assert caught.value.code == 4
    assert re.search(rf"CNI_IFNAME=eth0 exists already in /run/netns/{pod.netns}", caught.value.msg)
    assert pod.run("ip -d addr show eth0; ip route").stdout == inside
    eventually(lambda: lan.dhcp.leases() == [], 2.0, "the lease is given back")
    assert node.status()["pods"] == []
    pod.delete()
    assert pod.run("ip -d addr show eth0; ip route").stdout == inside, "a DEL takes only what was made"


# The API.

CNI = {"environment": {"CNI_COMMAND": "VERSION"}, "stdin": ""}


@pytest.mark.parametrize(
    ("method", "parameters", "wrong"),
    [
        ("Cni", {}, "environment"),
        ("Cni", {**CNI, "environment": []}, "environment"),
        ("Cni", {**CNI, "environment": {"CNI_COMMAND": 7}}, "environment"),
        ("Cni", {**CNI, "stdin": None}, "stdin"),
        ("Cni", {**CNI, "stdin": {}}, "stdin"),
        ("Plan", {"action": "format"}, "action"),
        ("Plan", {"action": 7}, "action"),
        ("Plan", {"action": []}, "action"),
        ("Setup", {"confirm": "yes"}, "confirm"),
        ("Teardown", {"force": 1}, "force"),
        ("Teardown", {"force": None}, "force"),
    ],
)
def test_parameters_of_the_wrong_type(
    node: Node, method: str, parameters: dict[str, Any], wrong: str
) -> None:
    before = node.state()
    with pytest.raises(ApiError) as caught:
        node.api(method, parameters)
    assert caught.value.name == "org.varlink.service.InvalidParameter"
    assert caught.value.parameters == {"parameter": wrong}
    assert node.state() == before
    assert node.status()["state"] == "ready"


def test_methods_and_interfaces_that_are_none(node: Node) -> None:
    with pytest.raises(ApiError) as caught:
        node.api("Format")
    assert caught.value.name == "org.varlink.service.MethodNotFound"
    assert caught.value.parameters == {"method": "io.terway.Format"}
    with pytest.raises(ApiError) as caught:
        node.api("org.varlink.service.GetInterfaceDescription", {"interface": "io.nobody"})
    assert caught.value.name == "org.varlink.service.InterfaceNotFound"
    described = node.api("org.varlink.service.GetInterfaceDescription", {"interface": "io.terway"})[
        "description"
    ]
    assert set(re.findall(r"^method (\w+)", described, re.MULTILINE)) >= {
        "Cni",
        "Status",
        "Leases",
        "Plan",
        "Setup",
    }
    assert "io.terway" in node.api("org.varlink.service.GetInfo")["interfaces"]


def test_the_daemon_is_well_after_all_that(node: Node, lan: Lan) -> None:
    assert node.daemon is not None
    assert "Traceback" not in node.daemon.log()
    assert node.status()["state"] == "ready"
    pod = node.pod("web-0")
    pod.add()
    assert lan.host.ping(pod.address)
    pod.delete()
