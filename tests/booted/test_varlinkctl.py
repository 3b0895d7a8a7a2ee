"""The API as systemd's own varlinkctl sees it: that of Debian 13, run against a daemon's socket."""

from __future__ import annotations

import json
import shlex

import pytest

from tests.booted import roots
from tests.core.test_docs import to_run
from tests.lab import Lan
from tests.lab.machine import CHECKOUT
from tests.lab.node import SOCKET

pytestmark = pytest.mark.booted


def test_varlinkctl_lists_introspects_and_calls(lan: Lan) -> None:
    trixie = roots.root("trixie")
    node = lan.node("n1")
    node.start_daemon().wait_ready()
    pod = node.pod("web-0")
    pod.add()
    # In the node's mount namespace: the root itself is only read.
    node.run(f"mount --rbind /run {trixie}/run && mount --rbind /proc {trixie}/proc")

    def varlinkctl(*words: str, check: bool = True) -> str:
        done = node.run(["chroot", str(trixie), "varlinkctl", *words], check=check)
        return done.stdout + done.stderr

    assert varlinkctl("--version").startswith("systemd 257")
    assert "Product: terwayd" in varlinkctl("info", SOCKET)
    assert varlinkctl("list-interfaces", SOCKET).split() == ["io.terway", "org.varlink.service"]
    methods = varlinkctl("list-methods", SOCKET, "io.terway").split()
    description = (CHECKOUT / "terwayd/api/io.terway.varlink").read_text()
    described = [
        line.split()[1].split("(")[0] for line in description.splitlines() if line.startswith("method ")
    ]
    assert sorted(methods) == sorted(f"io.terway.{name}" for name in described)
    introspected = varlinkctl("introspect", SOCKET, "io.terway")
    assert all(f"method {name}(" in introspected for name in described)
    [line] = to_run("docs/how-it-works.md", "run: varlinkctl")
    assert json.loads(varlinkctl(*shlex.split(line)[1:]))["version"] == node.api("Status")["version"]
    status = json.loads(varlinkctl("--json=short", "call", SOCKET, "io.terway.Status", "{}"))
    assert status == node.api("Status") | {"pods": status["pods"]}
    [seen] = status["pods"]
    assert (seen["name"], seen["address"]) == ("web-0", f"{pod.address}/24")
    which = {"container_id": seen["container_id"], "ifname": "eth0"}
    renewed = json.loads(
        varlinkctl("--json=short", "call", SOCKET, "io.terway.RenewLease", json.dumps(which))
    )
    assert renewed["lease"]["address"] == seen["address"]
    refused = varlinkctl("call", SOCKET, "io.terway.Teardown", '{"force": false}', check=False)
    assert "io.terway.Failed" in refused
    assert "would lose the LAN" in refused
