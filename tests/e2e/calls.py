"""What the tests of CNI's verbs share: the node's configuration, the calls that need words, and that nothing is left."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.lab import Pod, ShimError, eventually

CONFIG = """
[dhcp]
timeout = "2s"
[pods]
service_cidrs = ["10.96.0.0/12"]
"""
VERSIONS = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]


@pytest.fixture(autouse=True)
def nothing_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test: no veth, no lease on either side."""
    yield
    if "node" in request.fixturenames:
        node, lan = request.getfixturevalue("node"), request.getfixturevalue("lan")
        try:
            assert node.veths() == []
            assert node.status()["pods"] == node.api("Leases")["leases"] == []
            eventually(lambda: lan.dhcp.leases() == [], 2.0, "every lease is given back")
        finally:  # what one test leaves is not the next one's trouble
            collect(node.pod("nobody"), **{"cni.dev/valid-attachments": []})


@contextmanager
def failing(code: int, *words: str) -> Iterator[ShimError]:
    with pytest.raises(ShimError) as caught:
        yield caught  # type: ignore[misc]
    assert caught.value.rc == 1
    told = json.loads(caught.value.stdout)
    assert told["cniVersion"] in VERSIONS
    assert told["code"] == code, told
    for word in words:
        assert word in told["msg"] + told.get("details", ""), told


def valid(*pods: Pod) -> list[dict[str, str]]:
    return [{"containerID": pod.container_id, "ifname": pod.ifname} for pod in pods]


def collect(pod: Pod, **config: Any) -> None:
    pod.cni(
        "GC",
        cni_version="1.1.0",
        config=config,
        env={"CNI_CONTAINERID": "", "CNI_NETNS": "", "CNI_IFNAME": ""},
    )
