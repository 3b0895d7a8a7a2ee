"""A node: a machine of the LAN with terwayd installed as its package would."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.lab import varlink
from tests.lab.errors import LabError, eventually
from tests.lab.machine import CHECKOUT, PYTHON, Machine, Process
from tests.lab.pod import Pod

SOCKET = "/run/terwayd.sock"
LOG = "/var/log/terwayd.log"
CONFLIST = "/etc/cni/net.d/10-terway.conflist"
MODULES = "/usr/lib/terwayd"  # holds the packages `terwayd` and `terwayctl`, as links into the checkout


class Daemon:
    """A run of terwayd on a node."""

    def __init__(self, node: Node, process: Process, log_from: int) -> None:
        self.node = node
        self.process = process
        self._log_from = log_from

    @property
    def pid(self) -> int:
        """Its process id as this process sees it; `pid_inside` as the node does."""
        return self.process.pid

    @property
    def pid_inside(self) -> int:
        return self.process.pid_inside

    @property
    def running(self) -> bool:
        return self.process.running

    def wait_ready(self, timeout: float = 20.0) -> Daemon:
        """Wait until the API says that the node is ready."""
        return self.wait_state("ready", timeout)

    def wait_state(self, state: str, timeout: float = 20.0) -> Daemon:
        """Wait until the API tells this state; LabError with the log when the daemon ends before."""
        seen = ""

        def reached() -> bool:
            nonlocal seen
            if not self.running:
                return True
            try:
                status = self.node.status()
            except (OSError, varlink.ApiError) as error:
                seen = str(error)
                return False
            seen = f"{status['state']} {status.get('reason', '')}"
            return bool(status["state"] == state)

        try:
            eventually(reached, timeout, f"terwayd on {self.node.name} is {state}", 0.01)
        except LabError as error:
            raise LabError(f"{error} ({seen.strip()}); its log:\n{self.log()}") from None
        if not self.running:
            raise LabError(
                f"terwayd on {self.node.name} ended with {self.process.returncode}; its log:\n{self.log()}"
            )
        return self

    def term(self, timeout: float = 15.0) -> int:
        """Stop it with SIGTERM and return its exit code."""
        self.process.signal(signal.SIGTERM)
        return self.process.wait(timeout)

    def kill9(self) -> None:
        """Kill it as a crash would, and wait until it is gone."""
        self.process.signal(signal.SIGKILL)
        self.process.wait()

    def wait(self, timeout: float = 15.0) -> int:
        """Wait for its end and return the exit code."""
        return self.process.wait(timeout)

    def log(self) -> str:
        """What this run of the daemon has logged."""
        return self.node.log()[self._log_from :]


class Node(Machine):
    """A machine with terwayd, terwayctl and the CNI plugin installed; the daemon does not run yet."""

    daemon: Daemon | None = None
    _conflist = ""

    def install(self, config: str | None) -> None:
        """Put the files of the package where it would put them; `config` is the text of /etc/terway.toml."""
        text = (CHECKOUT / "etc/terway.toml").read_text() if config is None else config
        self.write("/etc/terway.toml", text)
        modules = self.path(MODULES)
        modules.mkdir(parents=True, exist_ok=True)
        for name, source in (("terwayd", "terwayd"), ("terwayctl", "cli")):
            (modules / name).symlink_to(CHECKOUT / source)
        self.environment["PYTHONPATH"] = MODULES
        start = '#!/bin/sh\nPYTHONPATH={} exec {} -m {} "$@"\n'
        self.write("/usr/sbin/terwayd", start.format(MODULES, PYTHON, "terwayd"), 0o755)
        self.write("/usr/bin/terwayctl", start.format(MODULES, PYTHON, "terwayctl"), 0o755)
        shim = CHECKOUT / "cli/shim.py"
        if shim.exists():
            self.write("/usr/lib/cni/cni-terway", shim.read_text(), 0o755)
        for directory in ("/var/lib/terwayd", "/etc/cni/net.d", "/opt/cni/bin", "/run/netns"):
            self.path(directory).mkdir(parents=True, exist_ok=True)

    def start_daemon(self, *arguments: str, env: Mapping[str, str] | None = None) -> Daemon:
        """Start terwayd, as `.daemon`; it is not ready yet when this returns (see Daemon.wait_ready)."""
        if self.daemon is not None and self.daemon.running:
            raise LabError(f"terwayd runs already on {self.name}")
        log_from = len(self.log())
        process = self.spawn(["/usr/sbin/terwayd", *arguments], LOG, env)
        self.daemon = Daemon(self, process, log_from)
        return self.daemon

    def log(self) -> str:
        """All that the daemon has logged on this node, over all its runs."""
        file = self.path(LOG)
        return file.read_text(errors="replace") if file.exists() else ""

    @property
    def socket(self) -> Path:
        """The API's socket as this process reaches it."""
        return self.path(SOCKET)

    def conflist(self) -> dict[str, Any]:
        """The network's configuration, as a runtime knows it: what it has read once it goes on with."""
        with contextlib.suppress(FileNotFoundError):
            self._conflist = self.read(CONFLIST)
        if not self._conflist:
            raise LabError(f"{self.name}: there is no {CONFLIST}")
        known: dict[str, Any] = json.loads(self._conflist)
        return known

    def veths(self) -> list[str]:
        """The host's ends of the pods' interfaces."""
        names = [link["ifname"] for link in self.ip_json("link show type veth")]
        return [name for name in names if re.fullmatch(r"tw[0-9a-f]{12}", name)]

    def filter_of(self, port: str) -> str:
        """The programs that look at what comes in by a port, as `tc` shows them; "" for none."""
        told = self.run(f"tc filter show dev {port} ingress", check=False).stdout
        return "\n".join(line for line in told.splitlines() if "bytecode" in line)

    def guarded_ports(self) -> set[str]:
        """The pods' ports at which both programs stand."""
        return {port for port in self.veths() if self.filter_of(port).count("bytecode") == 2}

    def api(
        self, method: str, parameters: dict[str, Any] | None = None, timeout: float = 60.0
    ) -> dict[str, Any]:
        """Call the daemon's API: `api("Status")`, or a full name with dots.  Raises ApiError or OSError."""
        return varlink.call(
            self.socket, method if "." in method else f"io.terway.{method}", parameters, timeout
        )

    def status(self) -> dict[str, Any]:
        """`io.terway.Status`."""
        return self.api("Status", timeout=5.0)

    def terwayctl(
        self, *arguments: str, check: bool = True, timeout: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """Run terwayctl on the node."""
        return self.run(["/usr/bin/terwayctl", *arguments], check=check, timeout=timeout)

    def pod(self, name: str, namespace: str = "default", container_id: str = "", ifname: str = "eth0") -> Pod:
        """A new pod on this node, with a network namespace, not attached yet."""
        return Pod(self, name, namespace, container_id, ifname)
