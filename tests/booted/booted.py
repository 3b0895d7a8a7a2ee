"""A machine that boots a Debian with systemd as PID 1, its eth0 plugged into the lab's LAN.

    with Booted("node", roots.root()) as node:
        node.prepare("apt-get install -y /some.deb")     # before the boot, with the real machine's network
        node.boot(lan)
        node.run("systemctl is-system-running")
        node.reboot()

systemd-nspawn does it, on an overlay of the root, in a mount and a PID namespace that end with the
test (see holder.py).  What the machine writes lasts from boot to boot, and no longer than the object.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from tests.booted import holder
from tests.lab import CommandError, LabError, eventually
from tests.lab.lan import Lan
from tests.lab.machine import ENVIRONMENT, Files, Machine, Place, children

ROOT = "/run/root"  # in the holder's mount namespace
INTERFACES = """auto lo
iface lo inet loopback

auto eth0
iface eth0 inet static
    address {address}
    gateway {gateway}
"""


class Booted(Place, Files):
    """A Debian machine; `run` and the like work while it is booted, `path` always."""

    def __init__(self, name: str, *lowers: Path, number: int = 51) -> None:
        """`lowers` are the root it starts from: directories for an overlay, the topmost first."""
        super().__init__(name, ())
        self.number = number
        self.mac = f"52:54:00:77:01:{number:02x}"
        self.address = f"192.168.77.{number}"
        self.pid = 0
        self._lan: Lan | None = None
        self._wire: Machine | None = None
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._console = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the object
        self._holder = subprocess.Popen(
            ["/usr/bin/python3", "-IS", holder.__file__, ":".join(map(str, lowers)), ROOT],
            stdin=subprocess.PIPE,  # its closing, by us or by our death, ends the machine
            stdout=subprocess.PIPE,
            start_new_session=True,
            env=ENVIRONMENT,
        )
        assert self._holder.stdout is not None
        self._first = int(self._holder.stdout.readline() or 0)
        if not self._first:
            self.close()
            raise LabError(f"{name}: the machine's root cannot be mounted")
        self.write("/etc/hostname", name + "\n")
        self.write("/etc/hosts", f"127.0.0.1 localhost\n127.0.1.1 {name}\n")

    def path(self, path: str) -> Path:
        """A file of the machine as this process reaches it; of the running one's own mounts too."""
        return Path(f"/proc/{self.pid}/root{path}" if self.pid else f"/proc/{self._first}/root{ROOT}{path}")

    def conflist(self) -> dict[str, Any]:
        """The network's configuration, as a runtime reads it."""
        known: dict[str, Any] = json.loads(self.read("/etc/cni/net.d/10-terway.conflist"))
        return known

    def prepare(self, command: str, timeout: float = 300.0) -> str:
        """Run a command in the machine's root while it is off, with the real machine's network; what it said."""
        arguments = [*self._spawn_command("--pipe", "--resolv-conf=off"), "sh", "-c", command]
        done = subprocess.run(
            arguments,
            env={**ENVIRONMENT, "DEBIAN_FRONTEND": "noninteractive"},
            preexec_fn=self._join_cgroups,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
        )
        if done.returncode != 0:
            raise CommandError(f"{self.name} (off)", command, done.returncode, done.stdout, "")
        return done.stdout

    def save(self, target: Path) -> None:
        """Copy all that differs from the lower directories to `target`, to be one itself.  The machine must be off."""
        subprocess.run(["cp", "-a", f"/proc/{self._first}/root/run/upper", str(target)], check=True)

    def interfaces(self, text: str = "") -> None:
        """Set up ifupdown: `text`, or eth0 with the machine's static address."""
        self.write(
            "/etc/network/interfaces",
            text or INTERFACES.format(address=f"{self.address}/24", gateway=Lan.gateway_ip),
        )

    def boot(self, lan: Lan | None = None, timeout: float = 30.0) -> None:
        """Plug in a new eth0, down and without an address, boot, and wait until systemd has started all there is."""
        if self.pid:
            raise LabError(f"{self.name} is booted already")
        self._lan = lan or self._lan
        assert self._lan is not None, "the first boot needs a LAN"
        self._wire = self._lan.machine(f"{self.name}-nic")
        self._wire.ip("link set lo down", "link set eth0 down", f"link set eth0 address {self.mac}")
        capabilities = "--capability=CAP_NET_ADMIN,CAP_NET_RAW"
        self._console.seek(0, os.SEEK_END)
        self._nspawn = subprocess.Popen(
            self._spawn_command(
                "--boot", capabilities, "--network-namespace-path=/proc/self/ns/net", net=self._wire.pid
            ),
            env={
                **ENVIRONMENT,
                "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "network",
            },  # /proc/sys/net, as on real hardware
            preexec_fn=self._join_cgroups,
            stdin=subprocess.DEVNULL,
            stdout=self._console,
            stderr=subprocess.STDOUT,
        )
        try:
            self.pid = eventually(self._leader, timeout, "systemd is PID 1", 0.01)
            self.enter = ("nsenter", "-t", str(self.pid), "-a", "--")
            eventually(self.path("/run/systemd/private").exists, timeout, "systemd answers", 0.01)
            state = self.run(
                "systemctl is-system-running --wait", check=False, timeout=timeout
            ).stdout.strip()
        except LabError as error:
            self.crash()
            raise LabError(f"{self.name} does not boot: {error}\n{self.console()}") from None
        if state != "running":
            failed = self.run(
                "systemctl --failed --no-legend --plain; journalctl -b -p warning --no-pager", check=False
            )
            raise LabError(
                f"{self.name} is {state or 'not up'} after its boot:\n{failed.stdout}\n{self.console()}"
            )

    def _spawn_command(self, *options: str, net: int = 0) -> list[str]:
        enter = ["nsenter", f"--mount=/proc/{self._first}/ns/mnt", f"--pid=/proc/{self._first}/ns/pid"]
        enter += [f"--net=/proc/{net}/ns/net"] if net else []
        spawn = [
            "systemd-nspawn",
            "--quiet",
            "--register=no",
            "--keep-unit",
            f"--machine={self.name}",
            "-D",
            ROOT,
        ]
        return [*enter, *spawn, *options]

    def _join_cgroups(self) -> None:
        """systemd's groups go below these, and are removed with them."""
        for group in holder.cgroups(self._holder.pid):
            (group / "cgroup.procs").write_text(str(os.getpid()))

    def _leader(self) -> int:
        """The PID of the machine's systemd as seen from here, 0 while there is none."""
        assert self._nspawn is not None
        if self._nspawn.poll() is not None:
            raise LabError(f"systemd-nspawn ended with {self._nspawn.returncode}")
        for spawn in children(self._nspawn.pid):  # nsenter has forked it
            for pid in children(spawn):
                try:
                    status = dict(
                        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
                    )
                except (FileNotFoundError, ProcessLookupError):
                    continue
                if status["Name"] == "systemd" and status["NSpid"].split()[-1] == "1":
                    return pid
        return 0

    def stop(self, timeout: float = 60.0) -> None:
        """Shut down as `systemctl poweroff` does."""
        if self.pid and self._nspawn is not None:
            os.kill(self.pid, signal.SIGRTMIN + 4)
            try:
                self._nspawn.wait(timeout)
            except subprocess.TimeoutExpired:
                raise LabError(
                    f"{self.name} did not shut down within {timeout:g} s\n{self.console()}"
                ) from None
        self._off()

    def crash(self) -> None:
        """Lose power."""
        if self._nspawn is not None:
            for pid in children(self._nspawn.pid):
                os.kill(pid, signal.SIGKILL)
            self._nspawn.wait()
        self._off()

    def _off(self) -> None:
        self.pid, self.enter, self._nspawn = 0, ("false",), None
        if self._wire is not None:
            if (
                self._lan is not None
            ):  # the kernel takes a namespace down in its own time, and it answers until then
                with contextlib.suppress(CommandError):  # a test has taken the NIC out
                    self._lan.unplug(self._wire)
            self._wire.close()
            self._wire = None

    def reboot(self, *, crash: bool = False) -> None:
        """Shut down (or lose power) and boot again: the NIC is new, /run is empty, the rest is as it was."""
        if crash:
            self.crash()
        else:
            self.stop()
        self.boot()

    def systemctl(self, *words: str, check: bool = True, timeout: float = 120.0) -> str:
        """What systemctl said."""
        return self.run(["systemctl", "--no-pager", *words], check=check, timeout=timeout).stdout.strip()

    def property(self, unit: str, name: str) -> str:
        """A property of a unit, as `systemctl show` prints it."""
        return self.systemctl("show", "--property", name, "--value", unit)

    def journal(self, *words: str) -> str:
        """The journal of this boot, with what was just logged."""
        self.run("journalctl --sync", check=False)
        return self.run(
            ["journalctl", "-b", "--no-pager", "-o", "short-monotonic", *words], check=False
        ).stdout

    def console(self) -> str:
        """The last of what the machine's console showed."""
        self._console.seek(0)
        return self._console.read().decode(errors="replace")[-6000:]

    def close(self) -> None:
        """Remove the machine, booted or not."""
        if self._holder.stdin is not None and not self._holder.stdin.closed:
            self._holder.stdin.close()
        self._holder.wait(30)
        if self._holder.stdout is not None:
            self._holder.stdout.close()
        if self._nspawn is not None:
            self._nspawn.wait(30)
        self._off()
        self._console.close()

    def __enter__(self) -> Booted:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
