"""A machine with a kernel of its own: Debian's, with its modules, and NICs of real drivers, in an emulated PC.

    with Emulated("node", image, lan) as node:
        node.boot()                                     # half a minute: no hardware help is needed
        node.run("terwayctl doctor kernel")

Its NICs are taps in the lab's switch, so that it is one more machine of the LAN.  Commands go through Debian's
QEMU guest agent.  What the machine writes lasts from boot to boot, and no longer than the object.
"""

from __future__ import annotations

import base64
import json
import shlex
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.booted.booted import Booted
from tests.lab import CommandError, LabError, eventually
from tests.lab.lan import Lan
from tests.lab.machine import ENVIRONMENT, Place

PACKAGES = ("linux-image-cloud-amd64", "udev", "kmod", "qemu-guest-agent")
EMULATOR = "qemu-system-x86_64"
MEMORY = "768"  # MiB
_KERNEL, _INITRD = "vmlinuz", "initrd.img"
_SIZE = 2 * 1024**3  # bytes, of which the free ones take no room


def image(machine: Booted, directory: Path) -> Path:
    """Make a disk of a machine that is off, with its kernel beside it in `directory`; some 3 s."""
    disk = directory / "disk"
    for name in (_KERNEL, _INITRD):  # links that name a path of the machine's
        shutil.copyfile(machine.path("/boot") / machine.path(f"/{name}").readlink().name, directory / name)
    with disk.open("wb") as file:
        file.truncate(_SIZE)
    subprocess.run(
        ["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-d", machine.path("/"), disk], check=True
    )
    return disk


class Emulated(Place):
    """An emulated PC with Debian on the disk `image`, at 192.168.77.NUMBER if its own configuration says so."""

    def __init__(
        self, name: str, image: Path, lan: Lan, *, nics: Sequence[str] = ("virtio-net-pci",), number: int = 61
    ) -> None:
        """`nics` are the models of its NICs, eth0 and on, as QEMU calls them."""
        if shutil.which(EMULATOR, path=ENVIRONMENT["PATH"]) is None:
            raise LabError(
                f"{EMULATOR} is not installed: apt-get install --no-install-recommends qemu-system-x86"
            )
        super().__init__(name, ())
        self.address = f"192.168.77.{number}"
        self._console = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the object
        self._agent, theirs = socket.socketpair()
        self._heard = b""
        words = [
            EMULATOR,
            "-accel",
            "tcg",
            "-m",
            MEMORY,
            "-display",
            "none",
            "-monitor",
            "none",
            "-nodefaults",
        ]
        words += ["-kernel", str(image.with_name(_KERNEL)), "-initrd", str(image.with_name(_INITRD))]
        words += ["-append", "root=/dev/vda rw console=ttyS0 net.ifnames=0 quiet"]
        words += ["-drive", f"file={image},format=raw,if=virtio,snapshot=on,cache=unsafe", "-serial", "stdio"]
        words += ["-chardev", f"socket,id=agent,fd={theirs.fileno()}", "-device", "virtio-serial"]
        words += ["-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"]
        for index, model in enumerate(nics):
            tap = f"{name}-{index}"
            lan.wire(f"tuntap add {tap} mode tap", f"link set {tap} master lan up")
            words += ["-netdev", f"tap,id=nic{index},ifname={tap},script=no,downscript=no"]
            words += ["-device", f"{model},netdev=nic{index},mac=52:54:00:77:02:{number + index:02x}"]
        # In the switch's network and in no other; it ends with us, however we end.
        enter = ["nsenter", f"--net=/proc/{lan.switch.pid}/ns/net", "setpriv", "--pdeathsig", "KILL", "--"]
        self._words, self._fd = [*enter, *words], theirs
        self._qemu: subprocess.Popen[bytes] | None = None

    def boot(self, timeout: float = 120.0) -> None:
        """Switch it on, and wait until systemd has started all there is."""
        self._qemu = subprocess.Popen(
            self._words,
            env=ENVIRONMENT,
            pass_fds=[self._fd.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=self._console,
            stderr=subprocess.STDOUT,
        )
        self._fd.close()
        self._await(timeout)

    def reboot(self, timeout: float = 120.0) -> None:
        """Boot again, as `systemctl reboot` does."""
        before = self.run("cat /proc/sys/kernel/random/boot_id").stdout
        self._ask("guest-exec", path="systemctl", arg=["reboot"])
        self._await(timeout, before)

    def _await(self, timeout: float, before: str = "") -> None:
        def up() -> bool:
            self._synchronise()
            return self.run("cat /proc/sys/kernel/random/boot_id").stdout != before

        try:
            eventually(up, timeout, "the guest agent answers", 0.2)
            state = self.run(
                "systemctl is-system-running --wait", check=False, timeout=timeout
            ).stdout.strip()
        except LabError as error:
            raise LabError(f"{self.name} does not boot: {error}\n{self.console()}") from None
        if state != "running":
            failed = self.run(
                "systemctl --failed --no-legend --plain; journalctl -b -p warning --no-pager"
            ).stdout
            raise LabError(f"{self.name} is {state or 'not up'} after its boot:\n{failed}\n{self.console()}")

    def run(
        self,
        command: str | Sequence[str],
        *,
        check: bool = True,
        input: str | None = None,  # noqa: A002 - as subprocess.run calls it
        env: Mapping[str, str] | None = None,
        timeout: float = 60.0,
    ) -> subprocess.CompletedProcess[str]:
        words = ["sh", "-c", command] if isinstance(command, str) else list(command)
        text = command if isinstance(command, str) else shlex.join(command)
        environment = [f"{key}={value}" for key, value in {**self.environment, **(env or {})}.items()]
        options: dict[str, Any] = {"env": environment, "capture-output": True}
        if input:
            options["input-data"] = base64.b64encode(input.encode()).decode()
        pid = self._ask("guest-exec", path=words[0], arg=words[1:], **options)["pid"]
        deadline = time.monotonic() + timeout
        while not (done := self._ask("guest-exec-status", pid=pid))["exited"]:
            if time.monotonic() > deadline:
                raise LabError(f"{self.name}: `{text}` did not end within {timeout:g} s")
            time.sleep(0.02)
        out, err = (
            base64.b64decode(done.get(key, "")).decode(errors="replace") for key in ("out-data", "err-data")
        )
        code = done.get("exitcode", -done.get("signal", 0))
        if check and code != 0:
            raise CommandError(self.name, text, code, out, err)
        return subprocess.CompletedProcess(text, code, out, err)

    def write(self, path: str, text: str) -> None:
        """Write a file, its directories included."""
        self.run(["sh", "-c", 'mkdir -p "$(dirname "$1")" && cat >"$1"', "sh", path], input=text)

    def read(self, path: str) -> str:
        return self.run(["cat", path]).stdout

    def console(self) -> str:
        """The last of what the machine's console showed."""
        self._console.seek(0)
        return self._console.read().decode(errors="replace")[-6000:]

    # The guest agent's protocol: a line of JSON each way.

    def _synchronise(self) -> None:
        """Throw away what an earlier boot left unanswered; LabError while nobody answers."""
        number = time.monotonic_ns() & 0xFFFFFFFF
        self._heard = b""
        self._send({"execute": "guest-sync", "arguments": {"id": number}})
        while self._answer(5.0).get("return") != number:
            pass

    def _ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        self._send({"execute": command, "arguments": arguments})
        answer = self._answer(30.0)
        if "error" in answer:
            raise LabError(f"{self.name}: {command} {arguments}: {answer['error']['desc']}")
        returned: dict[str, Any] = answer["return"]
        return returned

    def _send(self, message: Mapping[str, Any]) -> None:
        self._agent.settimeout(30.0)
        try:
            self._agent.sendall(json.dumps(message).encode() + b"\n")
        except OSError as error:
            raise LabError(f"{self.name}: the emulator does not listen: {error}") from None

    def _answer(self, timeout: float) -> dict[str, Any]:
        self._agent.settimeout(timeout)
        while b"\n" not in self._heard:
            try:
                heard = self._agent.recv(65536)
            except TimeoutError:
                raise LabError(f"{self.name}: no answer of the guest agent within {timeout:g} s") from None
            except OSError:
                heard = b""
            if not heard:
                raise LabError(f"{self.name}: the emulator has ended\n{self.console()}")
            self._heard += heard
        line, _, self._heard = self._heard.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """Switch it off."""
        if self._qemu is not None:
            self._qemu.kill()
            self._qemu.wait()
        self._agent.close()
        self._fd.close()
        self._console.close()

    def __enter__(self) -> Emulated:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
