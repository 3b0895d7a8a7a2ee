"""Who is measured beside terwayd, and how each of them is brought up on a node."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.lab import Node, eventually

BRIDGE = "mybr0"
PLUGINS = "/usr/lib/cni"
NETAVARK = "1.14 of Debian 13"
RANGE = [{"subnet": "10.77.0.0/16", "rangeStart": "10.77.100.1", "rangeEnd": "10.77.110.254"}]


@dataclass
class Peer:
    """`run` is the command, `rounds` the share of the rounds that it takes part in; `why` it is missing."""

    name: str
    run: list[str]
    config: dict[str, Any] = field(default_factory=dict)
    share: float = 1.0
    prepare: Callable[[Node], None] = lambda _node: None
    why: str = ""

    def order(self) -> dict[str, Any]:
        return {"name": self.name, "run": self.run, "config": self.config, "bridge": BRIDGE}


def ours() -> Peer:
    return Peer("terwayd", ["/opt/cni/bin/cni-terway"], _config({"type": "cni-terway"}))


def peers() -> list[Peer]:
    host_local = {"type": "bridge", "bridge": BRIDGE, "ipam": {"type": "host-local", "ranges": [RANGE]}}
    dhcp = {"type": "bridge", "bridge": BRIDGE, "ipam": {"type": "dhcp"}}
    plugin, missing = f"{PLUGINS}/bridge", ""
    if not Path(plugin).exists():
        missing = f"there is no {plugin}: apt-get install containernetworking-plugins"
    return [
        Peer("bridge+host-local", [plugin], _config(host_local), why=missing),
        _netavark(),
        Peer("bridge+dhcp", [plugin], _config(dhcp), share=0.05, prepare=_dhcp_daemon, why=missing),
    ]


def _config(plugin: dict[str, Any]) -> dict[str, Any]:
    return {"cniVersion": "1.0.0", "name": "bench", **plugin}


def _dhcp_daemon(node: Node) -> None:
    node.spawn([f"{PLUGINS}/dhcp", "daemon"], "/var/log/dhcp-daemon.log")
    eventually(lambda: node.path("/run/cni/dhcp.sock").exists(), 10, "the dhcp plugin's daemon is up")


def _netavark() -> Peer:
    """From a root of Debian 13, which is unpacked, not installed; by its own loader and C library."""
    name = "netavark+dhcp-proxy"
    try:
        root = _unpacked("trixie", "netavark")
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        return Peer(name, [], why=f"netavark {NETAVARK} could not be unpacked: {said.strip()[-300:]}")
    triplet = next((root / "usr/lib").glob("*-linux-gnu*"))
    loader = next(file for file in sorted(root.glob("usr/lib*/**/ld-linux*.so.*")) if file.is_file())
    program = [str(loader), "--library-path", str(triplet), str(root / "usr/lib/podman/netavark")]

    def proxy(node: Node) -> None:
        node.path("/run/podman").mkdir(parents=True, exist_ok=True)
        node.spawn([*program, "dhcp-proxy", "--activity-timeout", "0"], "/var/log/netavark.log")
        eventually(lambda: node.path("/run/podman/nv-proxy.sock").exists(), 10, "netavark's proxy is up")

    return Peer(name, [*program, "--config", "/run/netavark"], prepare=proxy)


def _unpacked(suite: str, package: str) -> Path:
    """The package and what it needs, unpacked once and kept (10 s)."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "/var/cache") / "terwayd-tests"
    root = cache / f"{suite}-{package}"
    if not root.exists():
        cache.mkdir(parents=True, exist_ok=True)
        making = cache / f"bench-{os.getpid()}"
        command = ["mmdebstrap", "--quiet", "--variant=extract", f"--include={package}", suite, str(making)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
            making.rename(root)
        finally:
            shutil.rmtree(making, ignore_errors=True)
    return root
