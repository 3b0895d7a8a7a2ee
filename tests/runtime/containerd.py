"""containerd on a node of the lab, driven by `ctr`; its CRI is in cri.py.

Paths are Debian's: runtimes find the plugin in /usr/lib/cni (CRI) and /opt/cni/bin (ctr), the
conflist in /etc/cni/net.d.
"""

from __future__ import annotations

import itertools
import subprocess

from tests.lab import LabError, Node, eventually
from tests.lab.machine import Process
from tests.runtime import cgroup, image

SOCKET = "/run/containerd/containerd.sock"
LOG = "/var/log/containerd.log"
# `cni` as /etc/containerd/config.toml of Debian's package has it.  The rest: the lab's root is an overlay, which
# takes no overlay on top, and the lab may not lower the score by which the kernel chooses what to kill.
CONFIG = f"""\
version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{image.NAME}"
  restrict_oom_score_adj = true
  disable_apparmor = true
[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "native"
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "/usr/lib/cni"
  conf_dir = "/etc/cni/net.d"
"""


class Containerd:
    """A containerd that runs and has the image; it ends with its node."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self._numbers = itertools.count()
        node.write("/etc/containerd/config.toml", CONFIG)
        self.process = node.spawn(["containerd"], LOG)
        eventually(self._serves, 10.0, "containerd answers")
        archive = node.path("/root/image.tar")
        archive.write_bytes(image.archive())
        for namespace in ("default", "k8s.io"):
            self.ctr("--namespace", namespace, "images", "import", "/root/image.tar")

    def _serves(self) -> bool:
        if not self.process.running:
            raise LabError(f"containerd ended with {self.process.returncode}: {self.node.read(LOG)}")
        return self.ctr("version", check=False).returncode == 0

    def ctr(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.node.run(["ctr", *arguments], check=check, env={"CONTAINERD_SNAPSHOTTER": "native"})

    def run(self, name: str, *options: str) -> subprocess.CompletedProcess[str]:
        """`ctr run --cni` to its end: with --detach, or because it fails."""
        return self.ctr(*self._run(name, *options), check=False)

    def start(self, name: str) -> Process:
        """`ctr run --cni` in the foreground, which detaches the container from the network at its end."""
        command = ["ctr", *self._run(name, "--rm")]
        log = f"/var/log/ctr-{name}.log"
        process = self.node.spawn(command, log, {"CONTAINERD_SNAPSHOTTER": "native"})

        def runs() -> bool:
            if not process.running:
                raise AssertionError(f"{command} ended with {process.returncode}: {self.node.read(log)}")
            tasks = map(str.split, self.ctr("tasks", "ls").stdout.splitlines())
            # CREATED: ctr attaches it to the network now; a command would run in it already.
            return any(task[0] == name and task[-1] == "RUNNING" for task in tasks)

        eventually(runs, 10.0, f"container {name} runs")
        return process

    def _run(self, name: str, *options: str) -> list[str]:
        return ["run", "--cni", "--cgroup", f"{cgroup.PARENT}/{name}", *options, image.NAME, name]

    def exec(self, name: str, *command: str) -> str:
        """What a command in the container printed; CommandError when it fails."""
        number = f"exec{next(self._numbers)}"
        return self.ctr("tasks", "exec", "--exec-id", number, name, *command).stdout

    def kill(self, name: str) -> None:
        self.ctr("tasks", "kill", "--signal", "KILL", name)
