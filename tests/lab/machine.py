"""A machine of the lab: own network, mounts, processes, hostname; and what can be done in one.

`Place` is anything that commands run in (a machine, or a pod's network namespace in one).
A machine is held by its PID 1 (init.py), which ends when this process does, killed or not.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from tests.lab.errors import CommandError, LabError
from tests.lab.probe import Loss, Probe
from tests.lab.state import State

CHECKOUT = Path(__file__).resolve().parents[2]
PYTHON = os.environ.get("TERWAYD_LAB_PYTHON", "/usr/bin/python3")
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8", "TERM": "dumb"}
# As a Debian with systemd sets them; a new namespace would inherit this machine's instead.
SYSCTLS = {
    "net/ipv4/ip_forward": "0",
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/conf/default/rp_filter": "2",
    "net/ipv4/ping_group_range": "0 2147483647",
}


class Place:
    """Somewhere that commands run: `enter` is the nsenter command that leads there."""

    def __init__(self, name: str, enter: Sequence[str]) -> None:
        self.name = name
        self.enter = tuple(enter)
        self.environment = dict(ENVIRONMENT)

    def popen(
        self, command: str | Sequence[str], *, env: Mapping[str, str] | None = None, **popen: Any
    ) -> subprocess.Popen[Any]:
        """Start a command (a string goes through sh); `env` adds to the place's environment."""
        words = ["sh", "-c", command] if isinstance(command, str) else list(command)
        environment = {**self.environment, **(env or {})}
        return subprocess.Popen([*self.enter, *words], env=environment, **popen)

    def run(
        self,
        command: str | Sequence[str],
        *,
        check: bool = True,
        input: str | None = None,  # noqa: A002 - as subprocess.run calls it
        env: Mapping[str, str] | None = None,
        timeout: float = 30.0,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end and return what it said; with `check`, exit code != 0 raises CommandError."""
        pipe = subprocess.PIPE
        text = command if isinstance(command, str) else shlex.join(command)
        with self.popen(
            command, env=env, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True
        ) as process:
            try:
                out, err = process.communicate((input or "").encode(), timeout)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                out, err = process.communicate()
                said = (out + err).decode(errors="replace")
                raise LabError(f"{self.name}: `{text}` did not end within {timeout:g} s\n{said}") from None
            except BaseException:
                with contextlib.suppress(ProcessLookupError):  # it may have ended just now
                    os.killpg(process.pid, signal.SIGKILL)
                raise
        stdout, stderr = out.decode(errors="surrogateescape"), err.decode(errors="surrogateescape")
        if check and process.returncode != 0:
            raise CommandError(self.name, text, process.returncode, stdout, stderr)
        return subprocess.CompletedProcess(text, process.returncode, stdout, stderr)

    def ip(self, *commands: str) -> None:
        """Run `ip` commands (without the word `ip`) as one batch."""
        self.run(["ip", "-batch", "-"], input="\n".join(commands) + "\n")

    def has_link_local(self, dev: str) -> bool:
        """Whether an interface is seen to be up, and has the address that it then makes for itself, ready for use."""
        return "fe80::" in self.run(f"ip -6 addr show dev {dev} -tentative").stdout

    def ip_json(self, arguments: str) -> list[dict[str, Any]]:
        """`ip -j ARGUMENTS`, parsed."""
        output = self.run(["ip", "-j", *shlex.split(arguments)]).stdout
        return [entry for entry in json.loads(output or "[]") if entry]

    def mac_of(self, interface: str) -> str:
        return str(self.ip_json(f"link show dev {interface}")[0]["address"])

    def ping(self, target: object, *, count: int = 1, timeout: float = 1.0, source: str = "") -> bool:
        """Whether one of `count` echo requests to an address is answered within `timeout` seconds."""
        words = [
            "ping",
            "-n",
            "-q",
            "-c",
            str(count),
            "-i",
            "0.2",
            "-W",
            f"{timeout:g}",
            "-w",
            f"{timeout + count:.0f}",
        ]
        return (
            self.run([*words, *(["-I", source] if source else []), str(target)], check=False).returncode == 0
        )

    def probe(self, target: object, interval_ms: float = 10.0) -> Probe:
        """Start a continuous ping to an address; `.stop()` tells what was lost."""
        script = Path(__file__).with_name("pinger.py")
        command = [PYTHON, "-IS", str(script), str(target), str(interval_ms / 1000)]
        pipe = subprocess.PIPE
        return Probe(
            self.popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, start_new_session=True),
            f"{self.name} -> {target}",
        )

    def dhcp_lease(self, interface: str = "eth0", hostname: str = "") -> dict[str, str]:
        """Lease an address with a client of the lab's own (asker.py), and return what the ACK says.

        Keys: address, server, lease (seconds), router, mask.  The address is not put on the interface.
        """
        script = Path(__file__).with_name("asker.py")
        answer: dict[str, str] = json.loads(
            self.run([PYTHON, "-IS", str(script), interface, self.mac_of(interface), hostname]).stdout
        )
        return answer

    def state(self) -> State:
        """Addresses, routes of all tables, rules and links as they are, in comparable form."""
        return State.parse(self.run(State.COMMAND).stdout)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"


class Files:
    """A machine's files, which `path` leads to."""

    def path(self, path: str) -> Path:
        """A file of the machine as this process reaches it."""
        raise NotImplementedError

    def read(self, path: str) -> str:
        return self.path(path).read_text(errors="replace")

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Write a file, its directories included."""
        file = self.path(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)


class Machine(Place, Files):
    """A computer of the LAN.  Comes up in two steps, so that several can start at once: start, `wait`."""

    def __init__(self, name: str, *, root: bool = True, sysctls: Mapping[str, str] | None = None) -> None:
        super().__init__(name, ())
        if os.geteuid() != 0:
            raise LabError("the lab makes namespaces and needs root: run it as root (or with sudo)")
        self.pid = 0
        order = {"name": name, "root": root, "binds": binds(), "sysctls": {**SYSCTLS, **(sysctls or {})}}
        unshare = ["unshare", "--net", "--mount", "--pid", "--uts", "--ipc"]
        unshare += ["--propagation", "private", "--fork", "--kill-child"]
        script = Path(__file__).with_name("init.py")
        self._holder = subprocess.Popen(
            [*unshare, PYTHON, "-IS", str(script), json.dumps(order)],
            stdin=subprocess.PIPE,  # its closing, by us or by our death, ends the machine
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._children: list[subprocess.Popen[Any]] = []

    def wait(self) -> None:
        """Wait until the machine is up."""
        assert self._holder.stdout is not None
        with self._holder.stdout as output:
            line = output.readline().decode()
            if not line.startswith("ready "):
                line += output.read().decode(errors="replace")
                self.close()
                raise LabError(f"machine {self.name} does not come up: {line.strip() or 'no word from it'}")
        self.pid = int(line.split()[1])
        self.enter = ("nsenter", "-t", str(self.pid), "--net", "--mount", "--pid", "--uts", "--ipc", "--")

    def close(self) -> None:
        """End the machine and everything in it."""
        self.end()
        assert self._holder.stdout is not None
        self._holder.stdout.close()
        try:
            self._holder.wait(5)
        except subprocess.TimeoutExpired:
            self._holder.kill()  # --kill-child takes PID 1, and thus all of the machine, along
            self._holder.wait()
        for child in self._children:
            child.wait()
            for stream in (child.stdin, child.stdout, child.stderr):
                if stream:
                    stream.close()

    def end(self) -> None:
        """Begin to end the machine (close() waits for the end)."""
        stdin = self._holder.stdin
        if stdin is not None and not stdin.closed:
            stdin.close()

    @property
    def running(self) -> bool:
        return self._holder.poll() is None

    def path(self, path: str) -> Path:
        """A file of the machine as this process reaches it.  Absolute symbolic links on the way mislead."""
        return Path(f"/proc/{self.pid}/root{path}")

    def spawn(self, command: str | Sequence[str], log: str, env: Mapping[str, str] | None = None) -> Process:
        """Start a long-running command whose output is appended to the machine's file `log`."""
        file = self.path(log)
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("ab") as output:
            process = self._spawn(command, output, env)
        return Process(self, process, command if isinstance(command, str) else command[0])

    def _spawn(
        self, command: str | Sequence[str], output: IO[bytes], env: Mapping[str, str] | None
    ) -> subprocess.Popen[Any]:
        nothing = subprocess.DEVNULL
        process = self.popen(
            command, env=env, stdin=nothing, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        self._children.append(process)
        return process

    def sysctls(self, interface: str) -> dict[str, str]:
        """The kernel's settings of an interface, IPv4 and IPv6, as `ipv4/rp_filter: 2`."""
        found = self.run(
            f"cd /proc/sys/net && grep -s . ipv4/conf/{interface}/* ipv6/conf/{interface}/*", check=False
        ).stdout
        lines = (line.partition(":") for line in found.splitlines())
        return {name.replace(f"/conf/{interface}", ""): value for name, _, value in lines}


class Process:
    """A long-running command in a machine; its two process ids are looked up when first needed."""

    def __init__(self, machine: Machine, process: subprocess.Popen[Any], name: str) -> None:
        self.machine = machine
        self.name = name
        self._nsenter = process
        self._pid = 0

    @property
    def pid(self) -> int:
        """The process id as this process sees it (the command itself, not the nsenter before it)."""
        while not self._pid:
            if self._nsenter.poll() is not None:
                raise LabError(f"{self.machine.name}: the process has ended with {self._nsenter.returncode}")
            # nsenter has forked once it is in the process namespace; the child is the command.
            self._pid = next(iter(children(self._nsenter.pid)), 0)
        return self._pid

    @property
    def pid_inside(self) -> int:
        """The process id as the machine sees it."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[-1])

    @property
    def running(self) -> bool:
        return self._nsenter.poll() is None

    @property
    def returncode(self) -> int | None:
        """Exit code, negative for a signal, None while it runs."""
        return self._nsenter.poll()

    def signal(self, number: int) -> None:
        """Send a signal to the command; one that has ended is left alone."""
        if self.running:
            with contextlib.suppress(
                ProcessLookupError, LabError
            ):  # it may end between the look and the signal
                os.kill(self.pid, number)
        if number == signal.SIGCONT and self.running:
            self._nsenter.send_signal(number)  # it stops itself together with its child

    def wait(self, timeout: float = 10.0) -> int:
        """Wait for its end and return the exit code."""
        try:
            return self._nsenter.wait(timeout)
        except subprocess.TimeoutExpired:
            raise LabError(f"{self.machine.name}: `{self.name}` did not end within {timeout:g} s") from None


def binds() -> list[str]:
    """Directories that a machine must see as they are: the checkout, and a virtual environment in use."""
    environment = [] if PYTHON.startswith("/usr/") else [str(Path(PYTHON).parents[1])]
    return [str(CHECKOUT), *environment]


def children(pid: int) -> list[int]:
    """The direct children of a process."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


__all__ = ["CHECKOUT", "PYTHON", "Loss", "Machine", "Place", "Process"]
