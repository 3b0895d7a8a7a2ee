"""libcni's cache: the pod in a file of it, and nothing but ValueError for any other file."""

from __future__ import annotations

import base64
import json
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Any

import pytest

from terwayd.pods.cached import TRUSTED_S, from_cache
from terwayd.pods.identity import Policy, Wish, attachment
from terwayd.pods.static import static_lease

POLICY = Policy(node="52:54:00:00:00:01")
KEY = ("terway", "0123abc", "eth0")
POD = attachment(POLICY, KEY, Wish("shop", "web-0"), netns="/run/netns/cni-1")
CACHED: dict[str, Any] = {
    "kind": "cniCacheV1",
    "containerId": "0123abc",
    "ifName": "eth0",
    "networkName": "terway",
    "cniArgs": [["IgnoreUnknown", "1"], ["K8S_POD_NAMESPACE", "shop"], ["K8S_POD_NAME", "web-0"]],
    "result": {
        "cniVersion": "1.0.0",
        "interfaces": [
            {"name": "eth0", "mac": POD.mac, "sandbox": "/run/netns/cni-1"},
            {"name": POD.host_ifname, "mac": "02:00:00:00:00:01"},
        ],
        "ips": [{"address": "192.0.2.57/24", "gateway": "192.0.2.1", "interface": 0}],
        "routes": [
            {"dst": "0.0.0.0/0", "gw": "192.0.2.1"},
            {"dst": "10.0.0.0/8"},
            {"dst": "::/0", "gw": "fe80::1"},
        ],
    },
}


def test_the_pod_is_the_one_that_was_attached() -> None:
    known, lease = from_cache(json.dumps(CACHED), POLICY, 100.0)
    assert known == POD
    assert lease.address == IPv4Interface("192.0.2.57/24")
    assert lease.routes == (
        (IPv4Network("0.0.0.0/0"), IPv4Address("192.0.2.1")),
        (IPv4Network("10.0.0.0/8"), None),
    )
    assert (lease.renew_at, lease.rebind_at, lease.expires_at) == (100.0, 100.0, 100.0 + TRUSTED_S)


@pytest.mark.parametrize("listed", [True, False])
def test_an_address_without_dhcp_stays_one(listed: bool) -> None:
    plugin = {"type": "cni-terway", "static": True}
    config = {"plugins": [plugin, {"type": "portmap"}]} if listed else plugin
    text = base64.b64encode(json.dumps({"name": "terway", **config}).encode()).decode()
    assert from_cache(json.dumps({**CACHED, "config": text}), POLICY, 100.0) == (
        POD,
        static_lease(IPv4Interface("192.0.2.57/24"), 100.0),
    )


@pytest.mark.parametrize("gone", sorted(CACHED.keys() - {"kind", "cniArgs"}))
def test_a_file_that_lacks_something(gone: str) -> None:
    with pytest.raises(ValueError):
        from_cache(json.dumps({key: value for key, value in CACHED.items() if key != gone}), POLICY, 0.0)


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "7", "null", "\x00", "[" * 100_000),
        json.dumps(CACHED | {"result": {"interfaces": [], "ips": []}}),
        json.dumps(CACHED | {"result": {"ip4": {"ip": "192.0.2.57/24"}}}),
        json.dumps(CACHED | {"result": CACHED["result"] | {"ips": [{"address": "x.y"}]}}),
        json.dumps(CACHED | {"result": CACHED["result"] | {"routes": [{"dst": "10.0.0.1/8"}]}}),
        json.dumps(CACHED | {"cniArgs": [1]}),
    ],
)
def test_a_file_that_is_none(text: str) -> None:
    with pytest.raises(ValueError):
        from_cache(text, POLICY, 0.0)
