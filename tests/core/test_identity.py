"""Who a pod is on the LAN: the same after a restart, another where it is another, in the form of the RFCs."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from terwayd.config import DhcpConfig
from terwayd.pods.identity import Attachment, Policy, Wish, attachment, host_mac, host_name

POLICY = Policy(node="52:54:00:77:00:03")
OTHER_NODE = Policy(node="52:54:00:77:00:04")
KEY = ("terway", "c0ffee", "eth0")
TEXT = st.text(max_size=300)


def pod(policy: Policy = POLICY, key: tuple[str, str, str] = KEY, **more: Any) -> Attachment:
    netns, random = more.pop("netns", "/run/netns/x"), more.pop("random", b"")
    wish = Wish(**{"namespace": "default", "name": "web-0", **more})
    return attachment(policy, key, wish, netns=netns, random=random)


def container(policy: Policy = POLICY, **more: Any) -> Attachment:
    """One that is no pod of Kubernetes."""
    return pod(policy, **{"namespace": "", **more})


def same(one: Attachment, other: Attachment) -> bool:
    """Whether the LAN takes both for one; it must be all or nothing."""
    equal = {one.mac == other.mac, one.client_id == other.client_id}
    assert len(equal) == 1
    return equal.pop()


def test_it_never_changes() -> None:
    """Literal, since a change would give every pod of every user a new address."""
    assert pod() == Attachment(
        network="terway",
        container_id="c0ffee",
        ifname="eth0",
        netns="/run/netns/x",
        namespace="default",
        name="web-0",
        host_ifname="tw25d9c14fd1cd",
        mac="1a:ae:7a:95:68:5c",
        client_id="ffa45dd8600004c6c7b7ac56efc060a917491ed08f5a8d",
        hostname="web-0",
    )
    assert host_mac(pod()) == "d2:1d:59:d2:58:55"


@pytest.mark.parametrize("netns", ["/run/netns/x", "/proc/7/ns/net", ""])
def test_a_pod_is_the_same_in_another_sandbox_and_on_another_node(netns: str) -> None:
    again = pod(OTHER_NODE, ("terway", "decaf", "eth0"), netns=netns)
    assert same(pod(), again)
    assert again.same_pod == pod().same_pod
    assert again.hostname == pod().hostname
    assert again.host_ifname != pod().host_ifname, "both may be there at once"


@pytest.mark.parametrize(
    "other",
    [
        pod(key=("other", "c0ffee", "eth0")),
        pod(key=("terway", "c0ffee", "net1")),
        pod(namespace="prod"),
        pod(name="web-1"),
        pod(namespace="defaultweb", name="-0"),
        pod(namespace="", name="default\0web-0"),
        container(),
        container(name=""),
    ],
)
def test_another_pod_is_another(other: Attachment) -> None:
    assert not same(pod(), other)
    assert pod().same_pod != other.same_pod


def test_a_container_is_its_nodes_own() -> None:
    again = container(key=("terway", "decaf", "eth0"))
    assert same(container(), again)
    assert not same(container(), container(OTHER_NODE))


def test_without_a_name_it_is_the_containers_id() -> None:
    nameless = container(name="")
    assert same(nameless, container(name="", netns="/other"))
    assert not same(nameless, container(name="", key=("terway", "decaf", "eth0")))
    assert not same(nameless, container(OTHER_NODE, name=""))
    assert nameless.hostname == ""
    assert str(nameless) == "c0ffee"


def test_by_container() -> None:
    policy = replace(POLICY, client_id="container")
    assert same(pod(policy), pod(policy, name="web-1"))
    assert not same(pod(policy), pod(policy, key=("terway", "decaf", "eth0")))


def test_by_mac() -> None:
    policy = replace(POLICY, client_id="mac")
    identity = pod(policy).identity(DhcpConfig())
    assert identity.client_id is None
    assert identity.mac.hex(":") == pod().mac
    assert pod(policy).same_pod == pod(policy, key=("terway", "decaf", "eth0")).same_pod
    assert pod(policy).same_pod != pod(policy, name="web-1").same_pod


def test_a_random_mac_is_of_what_is_given() -> None:
    policy = replace(POLICY, mac="random")
    one, other = pod(policy, random=b"a" * 16), pod(policy, random=b"b" * 16)
    assert one.mac != other.mac
    assert pod().mac not in {one.mac, other.mac}
    assert one.client_id == other.client_id == pod().client_id


def test_with_a_random_mac_a_new_sandbox_is_still_the_same_client() -> None:
    """The server gives both the one address of the client-id: they must not both be attached."""
    policy = replace(POLICY, mac="random")
    one, other = pod(policy, random=b"a" * 16), pod(policy, random=b"b" * 16)
    assert one.same_pod == other.same_pod
    by_mac = replace(policy, client_id="mac")
    assert pod(by_mac, random=b"a" * 16).same_pod != pod(by_mac, random=b"b" * 16).same_pod


def test_a_mac_that_is_asked_for_is_taken() -> None:
    for policy in (POLICY, replace(POLICY, mac="random")):
        assert pod(policy, mac="02:11:22:33:44:55").mac == "02:11:22:33:44:55"
        assert pod(policy, mac="02:11:22:33:44:55").client_id == pod().client_id


@given(TEXT, TEXT, st.binary(max_size=16))  # type: ignore[misc]
def test_what_comes_out_is_well_formed(namespace: str, name: str, random: bytes) -> None:
    for policy in (POLICY, replace(POLICY, mac="random"), replace(POLICY, client_id="container")):
        made = pod(policy, namespace=namespace, name=name, random=random)
        for mac in (made.mac, host_mac(made)):
            assert re.fullmatch(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", mac)
            first = int(mac[:2], 16)
            assert first & 2, "locally administered"
            assert not first & 1, "of one station"
        assert made.mac != host_mac(made)
        client_id = bytes.fromhex(made.client_id)
        assert len(client_id) <= 32
        assert client_id[0] == 255, "RFC 4361 section 6.1: type, IAID of 4 bytes, DUID"
        assert client_id[5:7] == b"\0\4", "RFC 6355: a DUID-UUID"
        assert len(client_id) == 1 + 4 + 2 + 16
        assert re.fullmatch(r"tw[0-9a-f]{12}", made.host_ifname)
        identity = made.identity(DhcpConfig())
        assert (identity.mac.hex(":"), identity.client_id) == (made.mac, client_id)


@given(TEXT)  # type: ignore[misc]
def test_any_host_name_is_one_of_rfc_1123(name: str) -> None:
    made = host_name(name)
    assert made == "" or re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", made)
    assert host_name(made) == made


@pytest.mark.parametrize(
    ("name", "host"),
    [
        ("web-0", "web-0"),
        ("Web_0.example", "web-0-example"),
        ("--web--", "web"),
        ("a" * 80, "a" * 63),
        ("a" * 62 + "-b", "a" * 62),
        ("0x", "0x"),
        ("ä", ""),
        ("___", ""),
        ("", ""),
    ],
)
def test_host_names(name: str, host: str) -> None:
    assert host_name(name) == host
    assert pod(name=name).hostname == host
    assert pod(replace(POLICY, hostname=False), name=name).hostname == ""


def test_what_is_not_sent_is_none() -> None:
    bare = pod(replace(POLICY, client_id="mac", hostname=False)).identity(DhcpConfig(vendor_class=""))
    assert (bare.client_id, bare.hostname, bare.vendor_class) == (None, None, None)
    full = pod().identity(DhcpConfig())
    assert (full.hostname, full.vendor_class) == ("web-0", "terwayd")


def test_how_it_is_called() -> None:
    assert str(pod()) == "default/web-0"
    assert str(container()) == "web-0"
    digest = "0123456789abcdef" * 4
    assert str(container(name="", key=("terway", digest, "eth0"))) == digest[:12]
    assert str(container(name="", key=("terway", "default-web-0", "eth0"))) == "default-web-0"
    assert pod().key == KEY
