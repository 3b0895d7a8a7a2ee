"""The kubectl lines of docs/, as they are written, by Debian's kubectl against the API of kube_api.py."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.booted import kube_api, roots
from tests.core.test_docs import to_run
from tests.lab import eventually
from tests.lab.machine import PYTHON, Machine

pytestmark = [pytest.mark.booted, pytest.mark.long]
PORT = 8001
CORE, APPS, RBAC = "/api/v1", "/apis/apps/v1", "/apis/rbac.authorization.k8s.io/v1"
SYSTEM = "namespaces/kube-system"
DAEMON_SET = f"{APPS}/{SYSTEM}/daemonsets/kube-cni-terway-ds"
KUBECONFIG = f"""apiVersion: v1
kind: Config
clusters: [{{name: lab, cluster: {{server: "http://127.0.0.1:{PORT}"}}}}]
contexts: [{{name: lab, context: {{cluster: lab, user: ""}}}}]
current-context: lab
"""
# What cni-terway's manifest makes: its first releases with a service account and a role, later ones without.
OLD = {
    f"{CORE}/{SYSTEM}/configmaps/kube-cni-terway-cfg": ("v1", "ConfigMap"),
    f"{CORE}/{SYSTEM}/serviceaccounts/cni-terway": ("v1", "ServiceAccount"),
    f"{RBAC}/clusterroles/cni-terway": ("rbac.authorization.k8s.io/v1", "ClusterRole"),
    f"{RBAC}/clusterrolebindings/cni-terway": ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding"),
}


@dataclass
class Cluster:
    """A machine with kubectl and what it talks to."""

    machine: Machine

    def kubectl(self, line: str) -> None:
        self.machine.run(
            line, env={"KUBECONFIG": "/root/config", "PATH": "/opt/kubectl:/usr/bin:/bin"}, timeout=60
        )

    @property
    def objects(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(
            self.machine.run(["curl", "-fsS", f"http://127.0.0.1:{PORT}/all"]).stdout
        )
        return told


def made(path: str, version: str, kind: str, **more: Any) -> dict[str, Any]:
    """An object as the API shows it."""
    *_, before, namespace, _, name = ["", "", *path.split("/")]
    place = {"namespace": namespace} if before == "namespaces" else {}
    return {
        "apiVersion": version,
        "kind": kind,
        "metadata": {"name": name, "uid": path, **place, **more.pop("metadata", {})},
        **more,
    }


def objects(*, first_release: bool) -> dict[str, Any]:
    """Three nodes, on each a pod of cni-terway's DaemonSet and one of somebody's ReplicaSet."""
    found: dict[str, Any] = {}
    template = {"metadata": {"labels": {"app": "cni-terway"}}, "spec": {"hostNetwork": True}}
    selector = {"matchLabels": {"app": "cni-terway"}}
    found[DAEMON_SET] = made(
        DAEMON_SET, "apps/v1", "DaemonSet", spec={"selector": selector, "template": template}
    )
    for path, (version, kind) in OLD.items():
        if first_release or kind == "ConfigMap":
            found[path] = made(path, version, kind)
    for node in ("node1", "node2", "node3"):
        path = f"{CORE}/nodes/{node}"
        found[path] = made(path, "v1", "Node", spec={})
        for place, name, kind, owner in (
            ("kube-system", f"cni-{node}", "DaemonSet", "kube-cni-terway-ds"),
            ("default", f"web-{node}", "ReplicaSet", "web"),
        ):
            path = f"{CORE}/namespaces/{place}/pods/{name}"
            mine = {
                "apiVersion": "apps/v1",
                "kind": kind,
                "name": owner,
                "uid": DAEMON_SET,
                "controller": True,
            }
            scratch = {"name": "scratch", "emptyDir": {}}
            found[path] = made(
                path,
                "v1",
                "Pod",
                metadata={"ownerReferences": [mine]},
                spec={"nodeName": node, "containers": [], "volumes": [scratch]},
                status={"phase": "Running"},
            )
    return found


@pytest.fixture(params=["bookworm", "trixie"])
def kubectl(request: pytest.FixtureRequest) -> Path:
    """Debian's: 1.20 and 1.32."""
    return roots.root(request.param, ("kubernetes-client",)) / "usr/bin/kubectl"


@pytest.fixture(params=[True, False], ids=["first-release", "later-release"])
def cluster(kubectl: Path, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    machine = Machine("admin")
    try:
        machine.wait()
        machine.ip("link set lo up")
        machine.path("/opt/kubectl").mkdir(parents=True)
        shutil.copy(kubectl, machine.path("/opt/kubectl/kubectl"))
        machine.write("/root/config", KUBECONFIG)
        machine.write("/root/objects", json.dumps(objects(first_release=request.param)))
        machine.spawn([PYTHON, "-IS", kube_api.__file__, "/root/objects", str(PORT)], "/var/log/api.log")
        eventually(lambda: "serving" in machine.read("/var/log/api.log"), 10, "the API is there")
        yield Cluster(machine)
    finally:
        machine.close()


def pods_on(cluster: Cluster, node: str) -> list[str]:
    return [
        each["metadata"]["name"]
        for each in cluster.objects.values()
        if each["kind"] == "Pod" and each["spec"]["nodeName"] == node
    ]


def test_moving_from_cni_terway(cluster: Cluster) -> None:
    label = "terway.io/old"

    def labels(node: str) -> dict[str, str]:
        found: dict[str, str] = cluster.objects[f"{CORE}/nodes/{node}"]["metadata"].get("labels") or {}
        return found

    for line in to_run("docs/from-cni-terway.md", "run: old-nodes"):
        cluster.kubectl(line)
    assert [labels(node) for node in ("node1", "node2", "node3")] == [{label: "yes"}] * 3
    assert cluster.objects[DAEMON_SET]["spec"]["template"]["spec"]["nodeSelector"] == {label: "yes"}

    for line in to_run("docs/from-cni-terway.md", "run: drain"):
        cluster.kubectl(line)
    assert cluster.objects[f"{CORE}/nodes/node1"]["spec"] == {"unschedulable": True}
    assert pods_on(cluster, "node1") == ["cni-node1"]
    assert len(pods_on(cluster, "node2")) == 2
    assert (labels("node1"), labels("node2")) == ({}, {label: "yes"})

    for line in to_run("docs/from-cni-terway.md", "run: uncordon"):
        cluster.kubectl(line)
    assert not cluster.objects[f"{CORE}/nodes/node1"]["spec"].get("unschedulable")

    for line in to_run("docs/from-cni-terway.md", "run: last"):
        cluster.kubectl(line)
    assert {each["kind"] for each in cluster.objects.values()} == {"Node", "Pod"}


def test_leaving_a_cluster(cluster: Cluster) -> None:
    for line in (line for line in to_run("docs/kubernetes.md", "run: leave") if line.startswith("kubectl ")):
        cluster.kubectl(line)
    assert pods_on(cluster, "node3") == ["cni-node3"]
    assert f"{CORE}/nodes/node3" not in cluster.objects
    assert f"{CORE}/nodes/node2" in cluster.objects
