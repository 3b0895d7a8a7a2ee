"""One file with all that somebody needs to help from afar, and nothing secret.

Nothing is read that may hold a password: no interfaces files, no Secrets, no other service's journal.
"""

from __future__ import annotations

import io
import json
import os
import platform
import subprocess
import tarfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

from .client import Client
from .errors import TerwayError

_TIMEOUT: Final = 15.0
_MOST: Final = 4 << 20  # bytes of each part
COMMANDS: Final = {
    "ip-address.txt": "ip -d address",
    "ip-link.json": "ip -j -d -s link",
    "ip-route.txt": "ip -4 route show table all",
    "ip-route6.txt": "ip -6 route show table all",
    "ip-rule.txt": "ip rule",
    "ip-neigh.txt": "ip neigh",
    "bridge-link.txt": "bridge -d link",
    "bridge-fdb.txt": "bridge fdb",
    "nft.txt": "nft list ruleset",
    "tc.txt": "tc -s qdisc",
    "sysctl-bridge.txt": "sysctl -a --pattern ^net.bridge",
    "sockets.txt": "ss -anup",
    "journal.txt": "journalctl -u terwayd -b --no-pager -o short-iso -n 5000",
    "units.txt": "systemctl status --no-pager terwayd.service terwayd.socket cni-dhcp.service",
    "networkctl.txt": "networkctl --no-pager list",
    "packages.txt": "dpkg-query -W terwayd python3 python3-pyroute2 python3-typer containerd cri-o podman",
    "uname.txt": "uname -a",
    "networks.txt": "ls -l /etc/cni/net.d /opt/cni/bin /usr/lib/cni",
}
METHODS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "status.json": ("Status", {}),
    "leases.json": ("Leases", {}),
    "plan-setup.json": ("Plan", {"action": "setup"}),
    "plan-teardown.json": ("Plan", {"action": "teardown"}),
}


def write(client: Client, path: str, config: str, findings: list[dict[str, Any]]) -> None:
    """Write the bundle, readable by root alone."""
    name = f"terwayd-{platform.node()}-{time.strftime('%Y%m%d-%H%M%S')}"
    parts: dict[str, Callable[[], str]] = {
        "doctor.json": lambda: json.dumps({"schema": 1, "findings": findings}, indent=2),
        "metrics.prom": lambda: str(client.call("Metrics")["text"]),
        "terway.toml": lambda: Path(config).read_text(errors="replace"),
        "os-release.txt": lambda: Path("/etc/os-release").read_text(errors="replace"),
    }
    for part, (method, parameters) in METHODS.items():
        parts[part] = partial(_answer, client, method, parameters)
    for part, command in COMMANDS.items():
        parts[part] = partial(_output, command)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    except OSError as error:
        raise TerwayError(f"cannot write {path}: {error.strerror}", hint="name another file") from None
    with os.fdopen(descriptor, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as archive:
        for part, read in parts.items():
            try:
                text = read()
            except (TerwayError, OSError) as error:
                text = f"not to be had: {error}\n"
            data = text.encode(errors="replace")[:_MOST]
            entry = tarfile.TarInfo(f"{name}/{part}")
            entry.size, entry.mtime = len(data), int(time.time())
            archive.addfile(entry, io.BytesIO(data))


def _answer(client: Client, method: str, parameters: dict[str, Any]) -> str:
    return json.dumps(client.call(method, **parameters), indent=2)


def _output(command: str) -> str:
    try:
        done = subprocess.run(
            command.split(), stdin=subprocess.DEVNULL, capture_output=True, timeout=_TIMEOUT
        )
    except subprocess.TimeoutExpired:
        return f"{command}: no end within {_TIMEOUT:.0f} s\n"
    said = (done.stdout + done.stderr).decode(errors="replace")
    return f"$ {command}\n{said}" + (f"(exit status {done.returncode})\n" if done.returncode else "")
