"""A pod as a container runtime makes it: a network namespace, and the CNI plugin run for it."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from ipaddress import IPv4Address
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from tests.lab.errors import LabError
from tests.lab.machine import Place

if TYPE_CHECKING:
    from tests.lab.node import Node

PLUGIN = "/opt/cni/bin/cni-terway"


class ShimError(LabError):
    """The CNI plugin failed: the error object it printed (if it did), its exit code, all it said."""

    def __init__(self, verb: str, rc: int, stdout: str, stderr: str) -> None:
        try:
            said = json.loads(stdout)
        except ValueError:
            said = {}
        self.code: int | None = said.get("code")
        self.msg: str = said.get("msg", "")
        self.details: str = said.get("details", "")
        self.rc, self.stdout, self.stderr = rc, stdout, stderr
        super().__init__(
            f"{verb} failed with exit code {rc}, CNI code {self.code}: {self.msg or stdout} {stderr}".strip()
        )


class Pod(Place):
    """A pod of a node.  It has no address until `add()`; `run` and `ping` act from its network namespace."""

    def __init__(self, node: Node, name: str, namespace: str, container_id: str, ifname: str) -> None:
        self.node = node
        self.pod_name, self.namespace, self.ifname = name, namespace, ifname
        self.container_id = container_id or uuid.uuid4().hex * 2
        self.netns = f"cni-{self.container_id[:12]}"
        node.run(f"ip netns add {self.netns} && ip -n {self.netns} link set lo up")
        path = node.path(f"/run/netns/{self.netns}")
        into = ("nsenter", "-t", str(node.pid), f"--net={path}", "--mount", "--pid", "--uts", "--ipc", "--")
        super().__init__(f"{node.name}/{namespace}/{name}", into)
        self.result: dict[str, Any] | None = None
        self.seconds = 0.0

    def cni(
        self,
        verb: str,
        *,
        cni_version: str = "",
        config: Mapping[str, Any] | None = None,
        args: Mapping[str, str] | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float = 90.0,
    ) -> dict[str, Any]:
        """Run the installed plugin as a runtime would, and return what it printed, parsed.

        `config` adds to the plugin's configuration, `args` to CNI_ARGS, `env` to the environment (None of the
        variables is checked: that is the plugin's part).  Raises ShimError when the plugin fails.
        """
        conflist = self.node.conflist()
        stdin: dict[str, Any] = {
            "cniVersion": cni_version or conflist["cniVersion"],
            "name": conflist["name"],
        }
        stdin |= conflist["plugins"][0]
        if verb in ("DEL", "CHECK") and self.result:
            stdin["prevResult"] = self.result
        stdin |= config or {}
        environment = {**self.cni_environment(verb, args or {}), **(env or {})}
        begin = time.perf_counter()
        done = self.node.run([PLUGIN], input=json.dumps(stdin), env=environment, check=False, timeout=timeout)
        self.seconds = time.perf_counter() - begin
        if done.returncode != 0:
            raise ShimError(verb, done.returncode, done.stdout, done.stderr)
        result: dict[str, Any] = json.loads(done.stdout) if done.stdout.strip() else {}
        return result

    def cni_environment(self, verb: str, args: Mapping[str, str] = MappingProxyType({})) -> dict[str, str]:
        """The environment of the plugin; `args` adds to CNI_ARGS."""
        pairs = {"IgnoreUnknown": "1", "K8S_POD_NAMESPACE": self.namespace, "K8S_POD_NAME": self.pod_name}
        pairs |= {"K8S_POD_INFRA_CONTAINER_ID": self.container_id, **args}
        return {
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": self.container_id,
            "CNI_NETNS": f"/run/netns/{self.netns}",
            "CNI_IFNAME": self.ifname,
            "CNI_ARGS": ";".join(f"{key}={value}" for key, value in pairs.items()),
            "CNI_PATH": "/opt/cni/bin:/usr/lib/cni",
        }

    def add(self, **options: Any) -> dict[str, Any]:
        """Attach the pod to the LAN (CNI ADD); options as of `cni`.  The time it took is in `.seconds`."""
        self.result = self.cni("ADD", **options)
        return self.result

    def check(self, **options: Any) -> None:
        """CNI CHECK; raises ShimError when something is not as ADD left it."""
        self.cni("CHECK", **options)

    def delete(self, *, netns: bool = True, **options: Any) -> None:
        """Detach the pod (CNI DEL), without the path of its namespace if `netns` is False."""
        if not netns:
            options["env"] = {**(options.get("env") or {}), "CNI_NETNS": ""}
        self.cni("DEL", **options)
        self.result = None

    def remove(self) -> None:
        """Remove the pod's network namespace, as a runtime does after DEL, or a crash does without it."""
        self.node.run(["ip", "netns", "delete", self.netns])

    @property
    def address(self) -> IPv4Address:
        """The IPv4 address that the pod's interface really has."""
        for link in self.ip_json(f"-4 addr show dev {self.ifname}"):
            for info in link.get("addr_info", []):
                return IPv4Address(info["local"])
        raise LabError(f"{self.name} has no IPv4 address on {self.ifname}")

    @property
    def port(self) -> str:
        """The host's end of its interface, as the result told it."""
        assert self.result is not None, f"{self.name} is not attached"
        return str(self.result["interfaces"][1]["name"])

    @property
    def mac(self) -> str:
        return self.mac_of(self.ifname)
