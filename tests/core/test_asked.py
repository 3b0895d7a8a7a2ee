"""What a runtime may ask for, by which key, and which of them wins."""

from __future__ import annotations

import json
from ipaddress import IPv4Interface, IPv4Network
from typing import Any

import pytest

from terwayd.cni import asked, protocol
from terwayd.cni.protocol import Call, Dns, Interface, Ip, Result, RouteTo
from terwayd.errors import CniError
from terwayd.pods.identity import Wish

MACS = [f"02:00:00:00:00:0{n}" for n in range(5)]


def call(ifname: str = "eth0", cni_args: str = "", version: str = "1.0.0", **config: Any) -> Call:
    environment = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "c0ffee",
        "CNI_NETNS": "/run/netns/x",
        "CNI_IFNAME": ifname,
        "CNI_ARGS": cni_args,
    }
    return protocol.parse(environment, json.dumps({"cniVersion": version, "name": "terway", **config}))


def annotated(**annotations: str) -> dict[str, Any]:
    return {asked.ANNOTATIONS: {f"terway.io/{key}": value for key, value in annotations.items()}}


def test_nothing_is_asked_for() -> None:
    assert asked.wish(call()) == Wish()
    assert asked.wish(call(runtimeConfig=None, args=7, dns=[])) == Wish()
    empty: dict[str, Any] = {"mac": "", "ips": [], "dns": {}, asked.ANNOTATIONS: None}
    assert asked.wish(call(cni_args="MAC=;IP=;IgnoreUnknown=1;X=Y", runtimeConfig=empty)) == Wish()


def test_a_pod_of_kubernetes() -> None:
    args = "K8S_POD_UID=7;K8S_POD_NAME=web-0;IgnoreUnknown=1;K8S_POD_NAMESPACE=shop"
    assert asked.wish(call(cni_args=args)) == Wish(namespace="shop", name="web-0")


@pytest.mark.parametrize("given", range(4))
def test_the_nearest_wins(given: int) -> None:
    """Each in turn is the nearest that says something."""
    runtime = {**annotated(mac=MACS[1], ip="192.0.2.1")} if given <= 1 else {}
    if given == 0:
        runtime |= {"mac": MACS[0], "ips": ["192.0.2.0/24"]}
    near = {"cni": {"mac": MACS[2], "ips": ["192.0.2.2"]}} if given <= 2 else {}
    wish = asked.wish(call(cni_args=f"MAC={MACS[3]};IP=192.0.2.3", runtimeConfig=runtime, args=near))
    assert wish.mac == MACS[given]
    expected = "192.0.2.0/24" if given == 0 else f"192.0.2.{given}"
    assert wish.address == (IPv4Interface(expected), given == 0)


def test_annotations_are_of_the_pods_first_interface_but_for_its_name() -> None:
    said = annotated(mac=MACS[1], ip="192.0.2.1/24", hostname="db")
    assert asked.wish(call(runtimeConfig=said)) == Wish(
        mac=MACS[1], address=(IPv4Interface("192.0.2.1/24"), True), hostname="db"
    )
    assert asked.wish(call("net1", runtimeConfig=said)) == Wish(hostname="db")


def test_static_and_the_key_of_the_original() -> None:
    wish = asked.wish(call(static=True, serviceIPCIDR="10.96.0.0/12", runtimeConfig={"ips": "192.0.2.1"}))
    assert (wish.static, wish.service_cidrs) == (True, (IPv4Network("10.96.0.0/12"),))


@pytest.mark.parametrize(
    ("code", "key", "config"),
    [
        *((7, "runtimeConfig.mac", {"runtimeConfig": {"mac": mac}}) for mac in ("x", 7, "02-00-00-00-00-01")),
        (7, "runtimeConfig.mac", {"runtimeConfig": {"mac": "03:00:00:00:00:01"}}),
        (7, "runtimeConfig.mac", {"runtimeConfig": {"mac": "00:00:00:00:00:00"}}),
        (7, "runtimeConfig.mac", {"runtimeConfig": {"mac": "02:00:00:00:00:01\n"}}),
        (7, "terway.io/mac", {"runtimeConfig": annotated(mac="x")}),
        (7, "args.cni.mac", {"args": {"cni": {"mac": []}}}),
        (4, "CNI_ARGS: MAC", {"cni_args": "MAC=x"}),
        *(
            (7, "runtimeConfig.ips", {"runtimeConfig": {"ips": ips}})
            for ips in (7, [7], ["x"], ["1.2.3.4/33"])
        ),
        *(
            (7, "runtimeConfig.ips", {"runtimeConfig": {"ips": [ip]}})
            for ip in ("0.0.0.0", "224.0.0.1", "127.0.0.1")
        ),
        (2, "runtimeConfig.ips", {"runtimeConfig": {"ips": ["fd77::1"]}}),
        (2, "runtimeConfig.ips", {"runtimeConfig": {"ips": ["192.0.2.1", "192.0.2.2"]}}),
        (7, "terway.io/ip", {"runtimeConfig": annotated(ip="here")}),
        (7, "args.cni.ips", {"args": {"cni": {"ips": {"a": 1}}}}),
        (4, "CNI_ARGS: IP", {"cni_args": "IP=x"}),
        (7, "static", {"static": True}),
        (7, "static", {"static": "yes"}),
        (7, "serviceIPCIDR", {"serviceIPCIDR": "10.96.0.1/12"}),
        (7, "serviceIPCIDR", {"serviceIPCIDR": 7}),
    ],
)
def test_what_cannot_be_had_is_told_with_its_key(code: int, key: str, config: dict[str, Any]) -> None:
    with pytest.raises(CniError) as caught:
        asked.wish(call(**config))
    assert caught.value.cni_code == code
    assert caught.value.message.startswith(key)


def test_what_the_container_resolves_by() -> None:
    leased = Dns(("192.0.2.53",), "lab.example")
    network = {"nameservers": ["192.0.2.54"], "domain": "net", "search": ["a.net"], "options": ["ndots:5"]}
    runtime = {"Servers": ["10.96.0.10"], "searches": ["svc.cluster.local"], "options": ["ndots:5"]}
    assert asked.dns(call(), leased) == leased
    assert asked.dns(call(dns={}, runtimeConfig={"dns": {}}), leased) == leased
    assert asked.dns(call(dns=network), leased) == Dns(("192.0.2.54",), "net", ("a.net",), ("ndots:5",))
    assert asked.dns(call(dns=network, runtimeConfig={"dns": runtime}), leased) == Dns(
        ("10.96.0.10",), "", ("svc.cluster.local",), ("ndots:5",)
    )


# Behind another plugin.

MADE = Result(
    (Interface("eth0", MACS[0], "/run/netns/x"), Interface("tw0", MACS[1])),
    (Ip("192.0.2.7/24", "192.0.2.1", 0),),
    (RouteTo("0.0.0.0/0", "192.0.2.1"),),
    Dns(("192.0.2.53",)),
)


@pytest.mark.parametrize("version", protocol.VERSIONS[2:])
def test_what_was_there_before_comes_first(version: str) -> None:
    family = {"version": "4"} if version < "1" else {}
    before = {
        "cniVersion": version,
        "interfaces": [{"name": "lo", "mac": "00:00:00:00:00:00", "sandbox": "/run/netns/x", "pciID": "x"}],
        "ips": [{**family, "address": "127.0.0.1/8", "interface": 0}],
        "routes": [{"dst": "10.0.0.0/8", "mtu": 9}],
        "dns": {"domain": "first"},
    }
    ours = protocol.result(MADE, version)
    assert protocol.behind(ours, call(version=version, prevResult=before)) == {
        "cniVersion": version,
        "interfaces": [*before["interfaces"], *ours["interfaces"]],
        "ips": [*before["ips"], {**ours["ips"][0], "interface": 1}],
        "routes": [*before["routes"], *ours["routes"]],
        "dns": {"domain": "first"},
    }
    assert protocol.behind(ours, call(version=version)) == ours
    assert protocol.behind(ours, call(version=version, prevResult={})) == ours


def test_before_there_were_chains_nothing_is_before_us() -> None:
    ours = protocol.result(MADE, "0.2.0")
    assert protocol.behind(ours, call(version="0.2.0", prevResult={"ip4": {"ip": "127.0.0.1/8"}})) == ours


def test_previous_results_in_every_shape() -> None:
    for version in protocol.VERSIONS:
        before = protocol.previous(call(prevResult=protocol.result(MADE, version)))
        assert before is not None
        assert before.addresses == {"192.0.2.7/24"}
        assert before.routes == {("0.0.0.0/0", "192.0.2.1")}
    assert protocol.previous(call()) is protocol.previous(call(prevResult=None)) is None


@pytest.mark.parametrize(
    "asking",
    [
        {"antispoof": False},
        {"runtimeConfig": annotated(antispoof="false")},
        {"args": {"cni": {"antispoof": False}}},
        {"cni_args": "ANTISPOOF=false"},
    ],
)
def test_an_interface_need_not_be_held_to_its_addresses(asking: dict[str, Any]) -> None:
    assert not asked.wish(call(**asking)).antispoof
    assert asked.wish(call("net1", runtimeConfig=annotated(antispoof="false"))).antispoof


@pytest.mark.parametrize(
    "asking", [{"antispoof": "no"}, {"args": {"cni": {"antispoof": 0}}}, {"cni_args": "ANTISPOOF=off"}]
)
def test_whether_it_is_held_to_them_is_said_clearly(asking: dict[str, Any]) -> None:
    with pytest.raises(CniError, match="is not true or false"):
        asked.wish(call(**asking))


def test_who_a_call_is_about() -> None:
    named = {"CNI_ARGS": "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=db-0", "CNI_CONTAINERID": "0" * 64}
    assert asked.who(named) == "shop/db-0"
    assert asked.who({"CNI_CONTAINERID": "0" * 64}) == "0" * 12
    assert asked.who({"CNI_CONTAINERID": "web\udcff", "CNI_ARGS": "K8S_POD_NAME"}) == "web?"
    assert asked.who({}) == ""
