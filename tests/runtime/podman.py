"""podman on a node of the lab, with CNI as its network backend and terwayd's network as the default one."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from tests.lab import Node
from tests.runtime import cgroup, image

# What a user of terwayd sets in /etc/containers/containers.conf.
CONTAINERS = """\
[network]
network_backend = "cni"
network_config_dir = "/etc/cni/net.d"
cni_plugin_dirs = ["/opt/cni/bin", "/usr/lib/cni"]
default_network = "terway"
"""
# No systemd, no right to raise a limit, and a root that is an overlay already: what the lab has not.
LAB = """\
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
log_driver = "k8s-file"
"""
STORAGE = """\
[storage]
driver = "vfs"
runroot = "/run/containers/storage"
graphroot = "/var/lib/containers/storage"
"""


class Podman:
    """podman with the image loaded; its containers end with the node."""

    def __init__(self, node: Node) -> None:
        self.node = node
        node.write("/etc/containers/containers.conf", CONTAINERS + LAB)
        node.write("/etc/containers/storage.conf", STORAGE)
        node.path("/root/image.tar").write_bytes(image.archive())
        self("load", "--quiet", "--input", "/root/image.tar")

    def __call__(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.node.run(["podman", *arguments], check=check)

    def run(
        self, name: str, *options: str, command: tuple[str, ...] = (), check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """`podman run --detach`: the container has its address when this returns."""
        return self(*_run(name, *options), *command, check=check)

    def start(self, name: str, *options: str) -> subprocess.Popen[Any]:
        """The same without waiting for it."""
        return self.node.popen(["podman", *_run(name, *options)], stdout=subprocess.DEVNULL)

    def network(self, name: str) -> dict[str, Any]:
        """What podman tells of a container's place in the network terway."""
        told = json.loads(self("inspect", "--format", "{{json .NetworkSettings.Networks}}", name).stdout)
        network: dict[str, Any] = told["terway"]
        return network

    def exec(self, name: str, *command: str) -> str:
        """What a command in the container printed; CommandError when it fails."""
        return self("exec", name, *command).stdout


def _run(name: str, *options: str) -> list[str]:
    return ["run", "--detach", "--name", name, "--cgroup-parent", cgroup.PARENT, *options, image.NAME]
