"""As much of the Kubernetes API as the kubectl lines of docs/ ask for; a script: `kube_api.py OBJECTS PORT`.

There is no kube-apiserver in Debian, so that kubectl, which is real, meets this.  Objects are values in
memory by their path, as `/api/v1/nodes/node1`; an eviction deletes its pod at once.  `GET /all` tells all.
"""

from __future__ import annotations

import http.server
import json
import sys
from typing import Any
from urllib.parse import parse_qs, urlsplit

KINDS = {
    "/api/v1": [
        ("nodes", "Node", False),
        ("pods", "Pod", True),
        ("configmaps", "ConfigMap", True),
        ("serviceaccounts", "ServiceAccount", True),
    ],
    "/apis/apps/v1": [("daemonsets", "DaemonSet", True)],
    "/apis/rbac.authorization.k8s.io/v1": [
        ("clusterroles", "ClusterRole", False),
        ("clusterrolebindings", "ClusterRoleBinding", False),
    ],
    "/apis/policy/v1": [],  # evictions
}
objects: dict[str, dict[str, Any]] = {}


def discovery(path: str) -> dict[str, Any] | None:
    """What there is, at the paths where clients look for that."""
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        groups = [each.split("/")[2:] for each in KINDS if each.startswith("/apis/")]
        named = [
            {"name": group, "versions": [version], "preferredVersion": version}
            for group, number in groups
            for version in [{"groupVersion": f"{group}/{number}", "version": number}]
        ]
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": named}
    if path not in KINDS:
        return None
    version = path.removeprefix("/apis/").removeprefix("/api/")
    verbs = ["get", "list", "watch", "patch", "delete"]
    found: list[dict[str, Any]] = [
        {"name": name, "singularName": kind.lower(), "kind": kind, "namespaced": namespaced, "verbs": verbs}
        for name, kind, namespaced in KINDS[path]
    ]
    if path == "/api/v1":
        eviction = {"kind": "Eviction", "group": "policy", "version": "v1", "verbs": ["create"]}
        found.append({"name": "pods/eviction", "singularName": "", "namespaced": True, **eviction})
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": found}


def listed(path: str, query: dict[str, list[str]]) -> dict[str, Any] | None:
    """The objects of a kind: of one namespace or of all, those that the field selector takes."""
    group, _, last = path.rpartition("/")
    found = [each for where, each in objects.items() if where.startswith(f"{path}/")]
    if not found and not any(
        last == name and group.startswith(where) for where, kinds in KINDS.items() for name, _, _ in kinds
    ):
        return None
    if group in KINDS:  # all namespaces
        found = [
            each
            for where, each in objects.items()
            if where.startswith(group) and where.split("/")[-2] == last
        ]
    for selector in query.get("fieldSelector", []):
        for key, _, value in (part.partition("=") for part in selector.split(",")):
            found = [each for each in found if field(each, key) == value]
    first = next(iter(found), {"kind": "", "apiVersion": "v1"})
    return {
        "kind": f"{first['kind']}List",
        "apiVersion": first["apiVersion"],
        "metadata": {"resourceVersion": "1"},
        "items": found,
    }


def field(value: Any, path: str) -> Any:
    for key in path.split("."):
        value = value.get(key, {})
    return value


def merged(value: Any, patch: Any) -> Any:
    """RFC 7386: a null removes a member.  All that kubectl patches here has maps alone."""
    if not isinstance(patch, dict):
        return patch
    kept = dict(value) if isinstance(value, dict) else {}
    for key, change in patch.items():
        if change is None:
            kept.pop(key, None)
        else:
            kept[key] = merged(kept.get(key), change)
    return kept


class Api(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        at = urlsplit(self.path)
        if at.path == "/all":
            self._answer(200, objects)
        else:
            found = discovery(at.path) or objects.get(at.path) or listed(at.path, parse_qs(at.query))
            self._answer(200, found) if found else self._missing()

    def do_PATCH(self) -> None:
        patch = json.loads(self._body())
        path = urlsplit(self.path).path
        if path not in objects:
            self._missing()
            return
        objects[path] = merged(objects[path], patch)
        self._answer(200, objects[path])

    def do_DELETE(self) -> None:
        self._body()
        if found := objects.pop(urlsplit(self.path).path, None):
            self._answer(200, found)
        else:
            self._missing()

    def do_POST(self) -> None:
        self._body()
        path, _, what = urlsplit(self.path).path.rpartition("/")
        if what == "eviction" and path in objects:
            del objects[path]
            self._answer(201, {"kind": "Status", "apiVersion": "v1", "status": "Success"})
        else:
            self._missing()

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _missing(self) -> None:
        failed = {"status": "Failure", "reason": "NotFound", "code": 404, "message": f"{self.path} not found"}
        self._answer(404, {"kind": "Status", "apiVersion": "v1", **failed})

    def _answer(self, status: int, value: dict[str, Any]) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as file:  # noqa: PTH123 - a script without imports that cost
        objects.update(json.load(file))
    with http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Api) as server:
        print("serving", flush=True)
        server.serve_forever()
