"""The CNI specification, rule by rule: each test is one sentence of its text, for every version that has it.

The installed plugin is run as the text says, with an environment and standard input of the test's own;
what it did is looked up in the kernel and at the DHCP server.  Sections are those of version 1.1.0.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from tests.e2e import shared
from tests.lab import Lan, Node, eventually
from tests.lab.pod import PLUGIN, Pod

VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
CHAINED = VERSIONS[2:]  # Result with interfaces, prevResult
CHECKED = VERSIONS[4:]
VERBS = ("ADD", "DEL", "CHECK", "GC", "STATUS")
NEEDED = {
    "ADD": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "CHECK": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "DEL": ("CNI_CONTAINERID", "CNI_IFNAME"),
}
every = pytest.mark.parametrize("version", VERSIONS)
chained = pytest.mark.parametrize("version", CHAINED)
checked = pytest.mark.parametrize("version", CHECKED)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Exit code and standard output of the plugin."""

    rc: int
    out: str

    @property
    def printed(self) -> dict[str, Any]:
        printed: dict[str, Any] = json.loads(self.out)
        return printed

    def error(self, code: int, version: str, *words: str) -> None:
        """It failed as section 5 "Error" wants, with this code and these words."""
        assert self.rc != 0
        told = self.printed
        assert (told["cniVersion"], told["code"]) == (version, code), told
        assert set(told) <= {"cniVersion", "code", "msg", "details"}
        for word in words:
            assert word in told["msg"], told


class Runtime:
    """A runtime with one container, which has the network namespace of a pod of the lab."""

    def __init__(self, node: Node, pod: Pod) -> None:
        self.node, self.pod = node, pod
        self.netns = f"/run/netns/{pod.netns}"
        self.container_id = uuid.uuid4().hex

    def call(
        self, verb: str, version: str | None, *, env: dict[str, str | None] | None = None, **config: Any
    ) -> Outcome:
        """`env` and `config` change what is sent; None takes a variable or, for `version`, the key away."""
        stdin = {"cniVersion": version, "name": "terway", "type": "cni-terway", **config}
        if version is None:
            del stdin["cniVersion"]
        return self.raw(json.dumps(stdin), {"CNI_COMMAND": verb, **(env or {})})

    def raw(self, stdin: str, env: dict[str, str | None]) -> Outcome:
        variables: dict[str, str | None] = {
            "CNI_CONTAINERID": self.container_id,
            "CNI_NETNS": self.netns,
            "CNI_IFNAME": "eth0",
            "CNI_PATH": "/opt/cni/bin",
            **env,
        }
        given = {key: value for key, value in variables.items() if value is not None}
        done = self.node.run([PLUGIN], input=stdin, env=given, check=False)
        assert done.stderr == ""
        return Outcome(done.returncode, done.stdout)

    def add(self, version: str, **options: Any) -> dict[str, Any]:
        done = self.call("ADD", version, **options)
        assert done.rc == 0, done
        return done.printed

    def delete(self, version: str, **options: Any) -> None:
        done = self.call("DEL", version, **options)
        assert (done.rc, done.out) == (0, ""), done

    def inside(self) -> dict[str, dict[str, Any]]:
        """The interfaces in the container's namespace, but for its loopback."""
        return {link["ifname"]: link for link in self.pod.ip_json("addr show") if link["ifname"] != "lo"}


lan = shared.lan
node = shared.node('[dhcp]\ntimeout = "2s"\n[pods]\nservice_cidrs = ["10.96.0.0/12"]\n')


@pytest.fixture(scope="module")
def namespace(node: Node) -> Pod:
    return node.pod("container")


@pytest.fixture
def runtime(node: Node, namespace: Pod, lan: Lan) -> Iterator[Runtime]:
    """Afterwards the container is deleted, and nothing of it is left anywhere."""
    runtime = Runtime(node, namespace)
    yield runtime
    everything: Any = {"cni.dev/valid-attachments": []}
    for network in ("terway", "other"):
        assert runtime.call("GC", "1.1.0", **{**everything, "name": network}).rc == 0
    assert runtime.inside() == {}
    assert node.status()["pods"] == []
    eventually(lambda: lan.dhcp.leases() == [], 10.0, "every lease is given back")


def v4(result: dict[str, Any]) -> str:
    """The address in a result of any version."""
    return str(result["ip4"]["ip"] if "ip4" in result else result["ips"][0]["address"])


# Section 1, "Network configuration format".


@every
def test_the_name_must_begin_with_a_letter_or_digit(runtime: Runtime, version: str) -> None:
    """Section 1: name "must start with an alphanumeric character, optionally followed by ... (_), (.) or (-)"."""
    for name in ("", "-x", ".x", "a/b", "a b", 7, None):
        runtime.call("ADD", version, name=name).error(7, version, "name")


@pytest.mark.parametrize("verb", VERBS)
def test_a_version_that_is_not_supported(runtime: Runtime, verb: str) -> None:
    """Section 5, "Error": code 1, "Incompatible CNI version"."""
    for version in ("0.0.9", "0.5.0", "1.2.0", "x"):
        done = runtime.call(verb, version)
        assert (done.rc, done.printed["code"]) == (1, 1)
        assert version in done.printed["msg"]


def test_no_version_is_the_first_one(runtime: Runtime) -> None:
    """Section 1: cniVersion; configurations of before it was required are of 0.1.0 (0.1.0, "Network Configuration")."""
    for version in (None, ""):
        result = runtime.call("ADD", version).printed
        assert (result["cniVersion"], set(result)) == ("0.1.0", {"cniVersion", "ip4", "dns"})
        runtime.delete("0.1.0")


@every
def test_fields_that_mean_nothing_to_us(runtime: Runtime, version: str) -> None:
    """Section 1: "Plugins may define additional fields"; "args ... should be ignored by plugins if not understood"."""
    more = {
        "args": {"labels": {"a": "b"}, "org.example": [1]},
        "capabilities": {"portMappings": True},
        "runtimeConfig": {"portMappings": [], "bandwidth": {}},
        "ipMasq": True,
        "ipam": {"type": "dhcp"},
        "cni.dev/something": 1,
        "x": {"y": [None]},
    }
    runtime.add(version, **more)
    runtime.delete(version, **more)


# Section 2, "Parameters".


@every
def test_a_command_that_does_not_exist(runtime: Runtime, version: str) -> None:
    """Section 5, "Error": code 4, "The error message must contain the names of invalid variables"."""
    for command in ("UPDATE", "add", "ADD "):
        runtime.call(command, version).error(4, version, "CNI_COMMAND")


@every
@pytest.mark.parametrize("verb", NEEDED)
def test_variables_that_are_required(runtime: Runtime, verb: str, version: str) -> None:
    """Section 2, each operation's "Required environment parameters"; all that are missing are named at once."""
    for value in (None, ""):
        runtime.call(verb, version, env=dict.fromkeys(NEEDED[verb], value)).error(4, version, *NEEDED[verb])


@every
def test_parameters_that_are_optional(runtime: Runtime, version: str) -> None:
    """Section 2: CNI_ARGS and CNI_PATH are optional parameters of ADD and DEL, CNI_NETNS is one of DEL."""
    without: dict[str, str | None] = {"CNI_PATH": None, "CNI_ARGS": None}
    runtime.add(version, env=without)
    runtime.delete(version, env={**without, "CNI_NETNS": None})
    assert runtime.inside() == {}


@every
def test_extra_arguments_that_mean_nothing_to_us(runtime: Runtime, version: str) -> None:
    """Section 2, "Parameters": CNI_ARGS, "Alphanumeric key-value pairs separated by semicolons"."""
    runtime.add(version, env={"CNI_ARGS": "FOO=BAR;ABC=123"})
    runtime.delete(version, env={"CNI_ARGS": "FOO=BAR;;=;ABC"})


@every
def test_what_is_no_container_id(runtime: Runtime, version: str) -> None:
    """Section 2, "Parameters": CNI_CONTAINERID "Must start with an alphanumeric character"."""
    for name in ("-x", ".x", "a/b", "a b", "a\n"):
        for verb in NEEDED if version in CHECKED else ("ADD", "DEL"):
            runtime.call(verb, version, env={"CNI_CONTAINERID": name}).error(4, version, "CNI_CONTAINERID")


@every
def test_what_is_no_interface_name(runtime: Runtime, version: str) -> None:
    """Section 2, "Parameters": CNI_IFNAME; 0.4.0: at most 15 characters, not "." or "..", no slash, colon, space."""
    for name in (".", "..", "a/b", "a:b", "a b", "x" * 16):
        runtime.call("ADD", version, env={"CNI_IFNAME": name}).error(4, version, "CNI_IFNAME")


@every
def test_a_namespace_that_is_none(runtime: Runtime, version: str) -> None:
    """Section 2, "Parameters": CNI_NETNS is the path of a network namespace; code 4 names the variable."""
    for path in ("/run/netns/gone", "/etc/passwd", "/proc/self/ns/uts"):
        runtime.call("ADD", version, env={"CNI_NETNS": path}).error(4, version, "CNI_NETNS")


@every
def test_the_nodes_own_namespace_is_not_to_be_joined(runtime: Runtime, version: str) -> None:
    """The reference dispatcher's code 8: a plugin must not work in the namespace it was started in."""
    runtime.call("ADD", version, env={"CNI_NETNS": "/proc/1/ns/net"}).error(8, version, "CNI_NETNS")


@pytest.mark.parametrize("verb", VERBS)
def test_a_configuration_that_cannot_be_decoded(runtime: Runtime, verb: str) -> None:
    """Section 5, "Error": code 6, "Failed to decode content"."""
    for stdin in ("", "{", "[]", '"text"', "null", "\0", '{"cniVersion":'):
        runtime.raw(stdin, {"CNI_COMMAND": verb}).error(6, "1.1.0")


# Section 2, "ADD", and section 5, "ADD Success".


@every
def test_add_makes_an_interface_of_that_name_in_the_container(runtime: Runtime, version: str) -> None:
    """ADD: "create the interface defined by CNI_IFNAME inside the container at CNI_NETNS"."""
    result = runtime.add(version, env={"CNI_IFNAME": "net.7-x"})
    inside = runtime.inside()["net.7-x"]
    [address] = [one for one in inside["addr_info"] if one["family"] == "inet"]
    assert v4(result) == f"{address['local']}/{address['prefixlen']}"
    assert "UP" in inside["flags"]


@every
def test_the_result_is_of_the_configurations_version(runtime: Runtime, version: str) -> None:
    """Section 5: "cniVersion: The same version supplied on input"; the shapes of 0.2.0, 0.3.0, 1.0.0 and 1.1.0."""
    result = runtime.add(version)
    assert result["cniVersion"] == version
    if version not in CHAINED:
        assert set(result) == {"cniVersion", "ip4", "dns"}
        assert set(result["ip4"]) == {"ip", "gateway", "routes"}
        return
    assert set(result) == {"cniVersion", "interfaces", "ips", "routes", "dns"}
    assert [set(ip) for ip in result["ips"]] == [
        {"address", "gateway", "interface"} | ({"version"} if version < "1" else set())
    ]
    inside = {"name", "mac", "sandbox"} | ({"mtu"} if version == "1.1.0" else set())
    assert [set(interface) for interface in result["interfaces"]] == [
        inside,
        {"name", "mac"},
        {"name", "mac"},
    ]


@chained
def test_all_interfaces_are_told_with_their_addresses(runtime: Runtime, version: str) -> None:
    """Section 5: "interfaces: An array of all interfaces created by the attachment, including any host-level
    interfaces"; sandbox is "the isolation domain reference (e.g. path to network namespace) for the interface, or
    empty if on the host"."""
    inside, *outside = runtime.add(version)["interfaces"]
    assert (inside["name"], inside["sandbox"]) == ("eth0", runtime.netns)
    assert inside["mac"] == runtime.inside()["eth0"]["address"]
    for interface in outside:
        assert interface["mac"] == runtime.node.mac_of(interface["name"])


@chained
def test_addresses_name_their_interface(runtime: Runtime, version: str) -> None:
    """Section 5: "interface (uint): the index into the interfaces list"; address "in CIDR notation"."""
    result = runtime.add(version)
    [ip] = result["ips"]
    held = runtime.inside()[result["interfaces"][ip["interface"]]["name"]]["addr_info"]
    assert ip["address"] in {f"{one['local']}/{one['prefixlen']}" for one in held}
    assert ip.get("version", "4") == "4"


@every
def test_routes_are_told_and_set(runtime: Runtime, version: str) -> None:
    """Section 5: "routes: Routes created by this attachment"."""
    result = runtime.add(version)
    told = {(r["dst"], r.get("gw")) for r in result.get("ip4", result)["routes"]}
    assert told == {("0.0.0.0/0", "192.168.77.1"), ("10.96.0.0/12", "192.168.77.11")}
    there = {(route["dst"], route.get("gateway")) for route in runtime.pod.ip_json("route show")}
    assert {("0.0.0.0/0" if dst == "default" else dst, gw) for dst, gw in there} >= told


@every
def test_dns_is_told(runtime: Runtime, version: str) -> None:
    """Section 5: "dns: a dictionary consisting of DNS configuration information"."""
    assert runtime.add(version)["dns"] == {"nameservers": ["192.168.77.1"], "domain": "lab.example"}


@every
def test_an_interface_that_is_there_already(runtime: Runtime, version: str) -> None:
    """ADD: "If an interface of the requested name already exists in the container, the CNI plugin MUST return
    with an error."; also one that another made."""
    runtime.add(version)
    eventually(lambda: runtime.pod.has_link_local("eth0"), 5.0, "the link is seen to be up")
    before = runtime.inside()
    runtime.call("ADD", version).error(4, version, "eth0")
    assert runtime.inside() == before
    runtime.delete(version)
    runtime.pod.run("ip link add eth0 type veth peer name other")
    try:
        runtime.call("ADD", version).error(4, version, "CNI_IFNAME")
        assert runtime.node.status()["pods"] == []
    finally:
        runtime.pod.run("ip link del eth0")


@every
def test_a_container_may_be_added_again_under_another_name(runtime: Runtime, version: str) -> None:
    """ADD: "a given container ID may be added to a specific network more than once only if each addition is done
    with a different interface name"; the first default route stays (0.4.0, "IP Allocation", notes)."""
    first = runtime.add(version)
    second = runtime.add(version, env={"CNI_IFNAME": "eth1"})
    assert v4(first) != v4(second)
    assert set(runtime.inside()) == {"eth0", "eth1"}
    assert "dev eth0" in runtime.pod.run("ip route get 203.0.113.1").stdout
    runtime.delete(version)
    assert set(runtime.inside()) == {"eth1"}


@every
def test_an_add_that_fails_leaves_nothing(runtime: Runtime, lan: Lan, version: str) -> None:
    """ADD: a non-zero return code and an error; the runtime's DEL after it succeeds (section 3, "DEL")."""
    lan.dhcp.stop()
    try:
        runtime.call("ADD", version, runtimeConfig={"ips": ["x"]}).error(7, version, "runtimeConfig.ips")
        if version in ("0.1.0", "1.1.0"):  # two seconds each
            runtime.call("ADD", version).error(11, version, "no DHCP lease")
        assert runtime.inside() == {}
        runtime.delete(version)
    finally:
        lan.dhcp.start()


@chained
def test_a_previous_result_is_passed_on(runtime: Runtime, version: str) -> None:
    """ADD: "If provided a prevResult as part of its input configuration, a plugin MUST handle prevResult by either
    passing it through, or modifying it appropriately"."""
    family = {"version": "4"} if version < "1" else {}
    before: dict[str, Any] = {
        "cniVersion": version,
        "interfaces": [{"name": "lo", "mac": "00:00:00:00:00:00", "sandbox": runtime.netns}],
        "ips": [{**family, "address": "127.0.0.1/8", "interface": 0}],
        "routes": [{"dst": "10.9.0.0/16"}],
    }
    result = runtime.add(version, prevResult=before)
    for key in ("interfaces", "ips", "routes"):
        assert result[key][: len(before[key])] == before[key]
    ours = result["ips"][1]
    assert result["interfaces"][ours["interface"]]["name"] == "eth0"


def test_different_containers_in_parallel(node: Node, lan: Lan, runtime: Runtime) -> None:
    """Section 3, "Lifecycle & Ordering": "the container runtime must not invoke parallel operations for the same
    container, but is allowed to invoke parallel operations for different containers"."""
    others = [Runtime(node, node.pod(f"other-{version}")) for version in VERSIONS]
    with ThreadPoolExecutor(len(others)) as pool:
        results = list(pool.map(lambda pair: pair[0].add(pair[1]), zip(others, VERSIONS, strict=True)))
        assert len({v4(result) for result in results}) == len(VERSIONS) == len(lan.dhcp.leases())
        list(pool.map(lambda pair: pair[0].delete(pair[1]), zip(others, VERSIONS, strict=True)))


# Section 2, "DEL".


@every
def test_del_takes_the_interface_out_and_undoes_all(runtime: Runtime, lan: Lan, version: str) -> None:
    """DEL: "delete the interface defined by CNI_IFNAME inside the container at CNI_NETNS, or undo any modifications
    applied in the plugin's ADD functionality"."""
    result = runtime.add(version)
    runtime.delete(version, prevResult=result)
    assert runtime.inside() == {}
    assert runtime.node.status()["pods"] == []
    eventually(lambda: lan.dhcp.lease_of(v4(result).split("/")[0]) is None, 10.0, "the lease is given back")


@every
def test_del_of_what_is_missing_succeeds(runtime: Runtime, version: str) -> None:
    """DEL: "Plugins should generally complete a DEL action without error even if some resources are missing"; and
    "Plugins MUST accept multiple DEL calls for the same (CNI_CONTAINERID, CNI_IFNAME) pair, and return success if
    the interface in question, or any modifications added, are missing"."""
    for env in ({}, {"CNI_NETNS": None}, {"CNI_NETNS": ""}, {"CNI_NETNS": "/run/netns/gone"}):
        runtime.add(version)
        if not env:
            runtime.pod.run("ip link del eth0")
        for _ in range(2):
            runtime.delete(version, env=env)
        assert runtime.inside() == {}


@every
def test_del_reads_no_previous_result(runtime: Runtime, version: str) -> None:
    """DEL: prevResult may be missing, and whatever it says the attachment's own resources are released."""
    given: tuple[Any, ...] = (None, {}, {"cniVersion": "0.2.0", "ip4": {"ip": "192.168.77.9/24"}}, [])
    for before in given:
        runtime.add(version)
        runtime.delete(version, prevResult=before)
        assert runtime.inside() == {}


@every
def test_del_is_of_one_attachment(runtime: Runtime, version: str) -> None:
    """Section 1: state is kept by "(network name, CNI_CONTAINERID, CNI_IFNAME)"."""
    runtime.add(version)
    runtime.delete(version, name="other")
    runtime.delete(version, env={"CNI_CONTAINERID": "another"})
    runtime.delete(version, env={"CNI_IFNAME": "eth1"})
    assert set(runtime.inside()) == {"eth0"}


# Section 2, "CHECK".


@checked
def test_check_right_after_the_add(runtime: Runtime, version: str) -> None:
    """CHECK: "must handle CHECK being called immediately after an ADD"; "must return either nothing or an error"."""
    result = runtime.add(version)
    assert runtime.call("CHECK", version, prevResult=result) == Outcome(0, "")


@checked
def test_check_of_what_is_missing(runtime: Runtime, version: str) -> None:
    """CHECK: "should return an error if a resource included in the CNI Result type (interface, address or route) was
    created by the plugin, and is listed in prevResult, but is missing or in an invalid state"."""
    result = runtime.add(version)
    address = v4(result)
    route = "ip route add default via 192.168.77.1; ip route add 10.96.0.0/12 via 192.168.77.11"
    for breaks, mends, word in (
        ("ip route del default", "ip route add default via 192.168.77.1", "0.0.0.0/0"),
        (f"ip addr del {address} dev eth0", f"ip addr add {address} dev eth0; {route}", address),
        ("ip link set eth0 down", f"ip link set eth0 up; {route}", "eth0 is down"),
        ("ip link set eth0 name eth9", "ip link set eth9 name eth0", "eth0 is gone"),
    ):
        runtime.pod.run(breaks)
        runtime.call("CHECK", version, prevResult=result).error(100, version, word)
        runtime.pod.run(mends)


@checked
def test_check_expects_what_the_previous_result_says(runtime: Runtime, version: str) -> None:
    """CHECK: "must consult the prevResult to determine the expected interfaces and addresses"; "must allow for a
    later chained plugin to have modified networking resources, e.g. routes"."""
    result = runtime.add(version)
    other = {**result, "ips": [{**result["ips"][0], "address": "192.168.77.9/24"}]}
    runtime.call("CHECK", version, prevResult=other).error(100, version, "192.168.77.9/24")
    runtime.pod.run("ip route del default")
    without = {**result, "routes": [route for route in result["routes"] if route["dst"] != "0.0.0.0/0"]}
    assert runtime.call("CHECK", version, prevResult=without).rc == 0


@checked
def test_check_of_a_container_that_was_never_added(runtime: Runtime, version: str) -> None:
    """Section 5, "Error": code 3, "Container unknown or does not exist"."""
    runtime.call("CHECK", version, prevResult={}).error(3, version, runtime.container_id)


@pytest.mark.parametrize(("verb", "since"), [("CHECK", "0.4.0"), ("GC", "1.1.0"), ("STATUS", "1.1.0")])
def test_verbs_that_a_version_does_not_have(runtime: Runtime, verb: str, since: str) -> None:
    """The version history: CHECK came with 0.4.0, GC and STATUS with 1.1.0."""
    for version in VERSIONS[: VERSIONS.index(since)]:
        runtime.call(verb, version, prevResult={}).error(1, version, verb, since)


# Section 2, "STATUS", "VERSION", "GC".


def test_status_of_a_node_that_is_well(runtime: Runtime) -> None:
    """STATUS: "must exit with a zero (success) return code if the plugin is ready to service ADD requests"."""
    nothing: dict[str, str | None] = dict.fromkeys((*NEEDED["ADD"], "CNI_PATH"))
    assert runtime.call("STATUS", "1.1.0", env=nothing) == Outcome(0, "")


@every
def test_version_tells_all_versions(runtime: Runtime, version: str) -> None:
    """VERSION, and section 5, "VERSION Success": supportedVersions, and the cniVersion of the input; it needs no
    environment, and what libcni sends for one means nothing."""
    told = {"cniVersion": version, "supportedVersions": list(VERSIONS)}
    nothing: dict[str, str | None] = dict.fromkeys((*NEEDED["ADD"], "CNI_PATH"))
    dummies: dict[str, str | None] = dict.fromkeys(("CNI_NETNS", "CNI_IFNAME", "CNI_PATH"), "dummy")
    for env in ({}, nothing, dummies):
        assert runtime.call("VERSION", version, env=env).printed == told


@pytest.mark.parametrize("key", ["cni.dev/valid-attachments", "cni.dev/attachments"])
def test_gc_takes_what_is_not_valid(runtime: Runtime, lan: Lan, key: str) -> None:
    """GC: what belongs to attachments that are not in cni.dev/valid-attachments goes.  The other name is what libcni
    called that key first, and sends still."""
    first = runtime.add("1.1.0")
    runtime.add("1.1.0", env={"CNI_IFNAME": "eth1"})
    runtime.add("1.1.0", env={"CNI_IFNAME": "eth2"}, name="other")
    kept: Any = [{"containerID": runtime.container_id, "ifname": "eth0"}]
    nothing: dict[str, str | None] = dict.fromkeys(NEEDED["ADD"])
    valid: Any = {key: kept}
    assert runtime.call("GC", "1.1.0", env=nothing, **valid) == Outcome(0, "")
    assert set(runtime.inside()) == {"eth0", "eth2"}, "GC is of one network"
    assert runtime.call("CHECK", "1.1.0", prevResult=first).rc == 0
    valid[key] = []
    assert runtime.call("GC", "1.1.0", env=nothing, **valid).rc == 0
    assert set(runtime.inside()) == {"eth2"}


def test_gc_of_containers_that_are_gone(runtime: Runtime, node: Node, lan: Lan) -> None:
    """GC: the namespace of a stale attachment may be gone."""
    gone = Runtime(node, node.pod("gone"))
    gone.add("1.1.0")
    gone.pod.remove()
    runtime.add("1.1.0")
    nothing: Any = {"cni.dev/valid-attachments": []}
    assert runtime.call("GC", "1.1.0", **nothing).rc == 0
    assert runtime.inside() == {}
