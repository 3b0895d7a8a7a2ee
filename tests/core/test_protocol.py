"""The CNI protocol: what a runtime may ask, what it is told, in the words of each version."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from terwayd.cni import install, protocol
from terwayd.cni.protocol import VERSIONS, Call, Dns, Interface, Ip, Result, RouteTo, parse
from terwayd.config import CniConfig
from terwayd.errors import CniError, ConfigError, DhcpError, HostError, KernelError, TerwayError

ENVIRONMENT = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "c0ffee",
    "CNI_NETNS": "/run/netns/x",
    "CNI_IFNAME": "eth0",
    "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0",
    "CNI_PATH": "/opt/cni/bin",
}
CONFIG = {"cniVersion": "1.0.0", "name": "terway", "type": "cni-terway"}
VERBS = ["ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION"]


def env(command: str = "ADD", **changes: str | None) -> dict[str, str]:
    merged: dict[str, str | None] = {**ENVIRONMENT, "CNI_COMMAND": command, **changes}
    return {key: value for key, value in merged.items() if value is not None}


def config(**changes: Any) -> str:
    return json.dumps({key: value for key, value in {**CONFIG, **changes}.items() if value is not ...})


def refused(code: int, environment: dict[str, str], stdin: str = config()) -> str:
    with pytest.raises(CniError) as caught:
        parse(environment, stdin)
    assert caught.value.cni_code == code
    return caught.value.message


# What is asked.


def test_a_call() -> None:
    assert parse(env(), config(mtu=7)) == Call(
        command="ADD",
        version="1.0.0",
        network="terway",
        container_id="c0ffee",
        netns="/run/netns/x",
        ifname="eth0",
        args={"IgnoreUnknown": "1", "K8S_POD_NAMESPACE": "default", "K8S_POD_NAME": "web-0"},
        config={**CONFIG, "mtu": 7},
    )
    assert parse(env(), config()).key == ("terway", "c0ffee", "eth0")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("verb", "since"), [("ADD", 0), ("DEL", 0), ("CHECK", 4), ("GC", 6), ("STATUS", 6)])
def test_a_verb_has_the_version_it_came_with(verb: str, since: int, version: str) -> None:
    if VERSIONS.index(version) >= since:
        assert parse(env(verb), config(cniVersion=version)).version == version
    else:
        message = refused(1, env(verb), config(cniVersion=version))
        assert message == f"{verb} needs cniVersion {VERSIONS[since]}, the configuration says {version}"


@pytest.mark.parametrize(
    "version", ["1.2.0", "0.0.9", "2.0.0", "1.0", "v1.0.0", " 1.0.0", 1, [], {"a": 1}, True]
)
def test_a_version_we_do_not_have(version: object) -> None:
    message = refused(1, env(), config(cniVersion=version))
    assert all(known in message for known in VERSIONS)


@pytest.mark.parametrize("version", [..., "", None])
def test_no_version_is_the_oldest(version: object) -> None:
    assert parse(env(), config(cniVersion=version)).version == "0.1.0"
    refused(1, env("CHECK"), config(cniVersion=version))


def test_no_command() -> None:
    assert refused(4, env(CNI_COMMAND=None)) == "CNI_COMMAND is not set"
    assert refused(4, env(CNI_COMMAND="")) == "CNI_COMMAND is not set"


@pytest.mark.parametrize("command", ["add", "UPDATE", "ADD ", "VERSIONS"])
def test_an_unknown_command_is_told_with_those_there_are(command: str) -> None:
    message = refused(4, env(command))
    assert repr(command) in message
    assert all(verb in message for verb in VERBS)


NEEDED = {
    "ADD": ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"],
    "CHECK": ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"],
    "DEL": ["CNI_CONTAINERID", "CNI_IFNAME"],
    "GC": [],
    "STATUS": [],
    "VERSION": [],
}


@pytest.mark.parametrize("verb", VERBS)
def test_all_variables_that_are_missing_are_named_at_once(verb: str) -> None:
    stdin = config(cniVersion="1.1.0")
    nothing = {"CNI_COMMAND": verb}
    if needed := NEEDED[verb]:
        assert refused(4, nothing, stdin) == f"{verb}: required variables are not set: {', '.join(needed)}"
        assert refused(4, {**env(verb), **dict.fromkeys(needed, "")}, stdin).endswith(", ".join(needed))
        for name in needed:
            assert refused(4, env(verb, **{name: None}), stdin).endswith(f"not set: {name}")
    parse({**nothing, **{name: ENVIRONMENT[name] for name in needed}}, stdin)


def test_a_variable_is_missed_before_the_configuration_is_read() -> None:
    assert refused(4, env(CNI_NETNS=None), "garbage")


@pytest.mark.parametrize("netns", ["", None])
def test_a_del_needs_no_namespace(netns: str | None) -> None:
    assert parse(env("DEL", CNI_NETNS=netns), config()).netns == ""


@pytest.mark.parametrize("name", ["terway", "a", "9", "lan-1.x_y", "A" * 300])
def test_names_of_networks_and_containers(name: str) -> None:
    assert parse(env(CNI_CONTAINERID=name), config(name=name)).key == (name, name, "eth0")


@pytest.mark.parametrize("name", ["-x", ".x", "_x", "a/b", "a b", "a\n", "ä", "a\0", "a:b", "../x"])
def test_what_is_no_name(name: str) -> None:
    assert repr(name) in refused(7, env(), config(name=name))
    message = refused(4, env(CNI_CONTAINERID=name))
    assert f"CNI_CONTAINERID={name!r}" in message


@pytest.mark.parametrize("name", ["", 7, None, ..., ["terway"], {"a": 1}, True])
def test_a_network_needs_a_name(name: object) -> None:
    assert "name" in refused(7, env(), config(name=name))
    assert "name" in refused(7, env("DEL"), config(name=name))


@pytest.mark.parametrize("name", ["eth0", "e", "fifteen-letters", "net1.7", "eth0_x-y", "ü", "..."])
def test_names_of_interfaces(name: str) -> None:
    assert parse(env(CNI_IFNAME=name), config()).ifname == name


@pytest.mark.parametrize(
    "name",
    [
        "sixteen-letters-",
        ".",
        "..",
        "a/b",
        "a:b",
        "a b",
        "a\t",
        "a\n",
        "a\u00a0",
        "üüüüüüüü",
        "br%d",
        "a\udcff",
    ],
)
def test_what_is_no_interface(name: str) -> None:
    assert f"CNI_IFNAME={name!r}" in refused(4, env(CNI_IFNAME=name))


@pytest.mark.parametrize(
    ("text", "args"),
    [
        ("", {}),
        ("A=1;B=2", {"A": "1", "B": "2"}),
        ("B=2;A=1", {"A": "1", "B": "2"}),
        ("A=;B", {"A": ""}),
        ("A=x=y;;", {"A": "x=y"}),
        ("UNKNOWN=1", {"UNKNOWN": "1"}),
        ("A=1;A=2", {"A": "2"}),
        ("A=\udcff", {"A": "?"}),
    ],
)
def test_arguments(text: str, args: dict[str, str]) -> None:
    assert parse(env(CNI_ARGS=text), config()).args == args


@pytest.mark.parametrize(
    "stdin",
    [
        "",
        " ",
        "{",
        "garbage",
        "[]",
        "null",
        '"text"',
        "7",
        "{'a': 1}",
        pytest.param('{"a":' * 100000, id="deep"),
        "\udcff",
        pytest.param("9" * 5000, id="digits"),
    ],
)
def test_garbage_on_stdin(stdin: str) -> None:
    for verb in ("ADD", "DEL", "CHECK", "GC", "STATUS"):
        message = refused(6, env(verb), stdin)
        assert message.startswith("standard input is no network configuration: ")
        assert len(message) < 200


@pytest.mark.parametrize(
    "more",
    [
        {"capabilities": {"mac": True}},
        {"runtimeConfig": {"mac": "02:00:00:00:00:01"}},
        {"prevResult": {"cniVersion": "0.4.0", "ips": []}},
        {"ipam": {"type": "dhcp"}, "dns": {}, "args": {"cni": {}}, "cni.dev/x": 1, "disableCheck": True},
    ],
)
def test_keys_that_we_do_not_know_are_left_alone(more: dict[str, Any]) -> None:
    assert parse(env(), config(**more)).config == {**CONFIG, **more}


@given(st.dictionaries(st.sampled_from([*ENVIRONMENT, "CNI_X"]), st.text()), st.text())  # type: ignore[misc]
def test_nothing_breaks_it(environment: dict[str, str], stdin: str) -> None:
    for text in (stdin, json.dumps({"cniVersion": stdin, "name": stdin})):
        for command in ({}, {"CNI_COMMAND": "ADD"}, {"CNI_COMMAND": "VERSION"}):
            try:
                parse({**environment, **command}, text)
            except CniError as error:
                json.dumps(protocol.error(error, protocol.version_of(text)))


# GC.

ONE = {"containerID": "c0ffee", "ifname": "eth0"}
OTHER = {"containerID": "decaf", "ifname": "net1", "more": 1}


def valid(**keys: Any) -> set[tuple[str, str]] | None:
    return protocol.valid_attachments(parse({"CNI_COMMAND": "GC"}, config(cniVersion="1.1.0", **keys)))


def test_what_a_gc_calls_valid() -> None:
    assert valid() is None
    for key in ("cni.dev/valid-attachments", "cni.dev/attachments"):
        assert valid(**{key: None}) == valid(**{key: []}) == set()
        assert valid(**{key: [ONE, OTHER, ONE]}) == {("c0ffee", "eth0"), ("decaf", "net1")}
    both = {"cni.dev/valid-attachments": [ONE], "cni.dev/attachments": [OTHER]}
    assert valid(**both) == {("c0ffee", "eth0")}


@pytest.mark.parametrize(
    "given",
    [
        7,
        True,
        "text",
        "",
        {},
        ONE,
        ["x"],
        [None],
        [[]],
        [{}],
        [ONE, {}],
        [{"containerID": "x"}],
        [{**ONE, "ifname": 7}],
    ],
    ids=json.dumps,
)
def test_what_is_no_list_of_attachments(given: Any) -> None:
    with pytest.raises(CniError, match="is no list of") as caught:
        valid(**{"cni.dev/valid-attachments": given})
    assert caught.value.cni_code == 7


# VERSION.


@pytest.mark.parametrize(
    ("stdin", "version"),
    [
        ('{"cniVersion": "0.4.0"}', "0.4.0"),
        ('{"cniVersion": "1.1.0", "name": "no/name"}', "1.1.0"),
        ('{"cniVersion": "9.9.9"}', "9.9.9"),
        ("", "1.1.0"),
        ("{}", "0.1.0"),
        ('{"cniVersion": 7}', "1.1.0"),
    ],
)
def test_version_is_answered_whatever_is_asked(stdin: str, version: str) -> None:
    dummies = {"CNI_COMMAND": "VERSION", "CNI_NETNS": "dummy", "CNI_IFNAME": "dummy", "CNI_PATH": "dummy"}
    assert protocol.versions(parse(dummies, stdin).version) == {
        "cniVersion": version,
        "supportedVersions": ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"],
    }


def test_every_version_that_we_announce_we_write() -> None:
    capabilities = {"mac": True, "ips": True, "dns": True, "io.kubernetes.cri.pod-annotations": True}
    listed = {
        "cniVersion": "1.0.0",
        "cniVersions": ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"],
        "name": "terway",
        "plugins": [{"type": "cni-terway", "capabilities": capabilities}],
    }
    assert json.loads(install.conflist(CniConfig())) == listed
    chained = CniConfig(chain=("portmap", {"type": "bandwidth", "ingressRate": 7}, "tuning"))
    listed["plugins"] += [  # type: ignore[operator]
        {"type": "portmap", "capabilities": {"portMappings": True}},
        {"type": "bandwidth", "capabilities": {"bandwidth": True}, "ingressRate": 7},
        {"type": "tuning"},
    ]
    assert json.loads(install.conflist(chained)) == listed


# What is answered.

MADE = Result(
    interfaces=(
        Interface("eth0", "02:00:00:00:00:01", "/run/netns/x", 1400),
        Interface("tw0123456789ab", "02:00:00:00:00:02"),
        Interface("mybr0", "02:00:00:00:00:03"),
    ),
    ips=(Ip("192.0.2.57/24", "192.0.2.1"), Ip("2001:db8::57/64", "2001:db8::1"), Ip("192.0.2.58/24")),
    routes=(RouteTo("0.0.0.0/0", "192.0.2.1"), RouteTo("10.96.0.0/12"), RouteTo("::/0", "2001:db8::1")),
    dns=Dns(("192.0.2.1",), "lan.example", ("lan.example", "example")),
)
DNS = {"nameservers": ["192.0.2.1"], "domain": "lan.example", "search": ["lan.example", "example"]}
ROUTES = [
    {"dst": "0.0.0.0/0", "gw": "192.0.2.1"},
    {"dst": "10.96.0.0/12"},
    {"dst": "::/0", "gw": "2001:db8::1"},
]
INTERFACES = [
    {"name": "eth0", "mac": "02:00:00:00:00:01", "sandbox": "/run/netns/x"},
    {"name": "tw0123456789ab", "mac": "02:00:00:00:00:02"},
    {"name": "mybr0", "mac": "02:00:00:00:00:03"},
]
IPS = [
    {"address": "192.0.2.57/24", "gateway": "192.0.2.1", "interface": 0},
    {"address": "2001:db8::57/64", "gateway": "2001:db8::1", "interface": 0},
    {"address": "192.0.2.58/24", "interface": 0},
]


def shape_020(version: str) -> dict[str, Any]:
    return {
        "cniVersion": version,
        "ip4": {"ip": "192.0.2.57/24", "gateway": "192.0.2.1", "routes": ROUTES[:2]},
        "ip6": {"ip": "2001:db8::57/64", "gateway": "2001:db8::1", "routes": ROUTES[2:]},
        "dns": DNS,
    }


def shape_030(version: str) -> dict[str, Any]:
    families = ["4", "6", "4"]
    ips = [{"version": family, **ip} for family, ip in zip(families, IPS, strict=True)]
    return {"cniVersion": version, "interfaces": INTERFACES, "ips": ips, "routes": ROUTES, "dns": DNS}


SHAPES = {
    "0.1.0": shape_020("0.1.0"),
    "0.2.0": shape_020("0.2.0"),
    "0.3.0": shape_030("0.3.0"),
    "0.3.1": shape_030("0.3.1"),
    "0.4.0": shape_030("0.4.0"),
    "1.0.0": {"cniVersion": "1.0.0", "interfaces": INTERFACES, "ips": IPS, "routes": ROUTES, "dns": DNS},
    "1.1.0": {
        "cniVersion": "1.1.0",
        "interfaces": [{**INTERFACES[0], "mtu": 1400}, *INTERFACES[1:]],
        "ips": IPS,
        "routes": ROUTES,
        "dns": DNS,
    },
}


@pytest.mark.parametrize("version", VERSIONS)
def test_the_shape_of_a_result(version: str) -> None:
    assert protocol.result(MADE, version) == SHAPES[version]


def test_a_result_as_it_is_written() -> None:
    bare = Result((Interface("eth0", "02:00:00:00:00:01", "/run/netns/x"),), (Ip("192.0.2.57/24"),))
    assert json.dumps(protocol.result(bare, "1.0.0")) == (
        '{"cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "mac": "02:00:00:00:00:01",'
        ' "sandbox": "/run/netns/x"}], "ips": [{"address": "192.0.2.57/24", "interface": 0}]}'
    )
    assert json.dumps(protocol.result(bare, "0.4.0")) == (
        '{"cniVersion": "0.4.0", "interfaces": [{"name": "eth0", "mac": "02:00:00:00:00:01",'
        ' "sandbox": "/run/netns/x"}], "ips": [{"version": "4", "address": "192.0.2.57/24", "interface": 0}]}'
    )
    assert protocol.result(bare, "0.2.0") == {
        "cniVersion": "0.2.0",
        "ip4": {"ip": "192.0.2.57/24", "routes": []},
    }


def test_an_error() -> None:
    failure = CniError(11, "no lease came", hint="terwayctl status")
    assert protocol.error(failure, "0.4.0") == {
        "cniVersion": "0.4.0",
        "code": 11,
        "msg": "no lease came",
        "details": "hint: terwayctl status",
    }
    assert "details" not in protocol.error(CniError(4, "no"), "0.4.0")


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (TerwayError("x"), 999),
        (ConfigError("x"), 7),
        (HostError("x"), 50),
        (KernelError("x", 22), 5),
        (DhcpError("x"), 11),
        (CniError(100, "x"), 100),
    ],
)
def test_the_code_of_an_error(failure: TerwayError, code: int) -> None:
    assert protocol.error(failure, "1.0.0")["code"] == code


@pytest.mark.parametrize(
    ("stdin", "version"),
    [
        ('{"cniVersion": "0.3.1"}', "0.3.1"),
        ('{"cniVersion": "7.0.0"}', "1.1.0"),
        ('{"cniVersion": []}', "1.1.0"),
        ("{}", "1.1.0"),
        ("garbage", "1.1.0"),
        ("[]", "1.1.0"),
        ("null", "1.1.0"),
        pytest.param("[" * 100000, "1.1.0", id="deep"),
    ],
)
def test_the_version_an_error_is_told_in(stdin: str, version: str) -> None:
    assert protocol.version_of(stdin) == version
