"""Makes docs/screens/ by running terwayctl on a node of the lab, as root: `make deb`, then `python3 docs/screens.py`.

Each command runs for real, on a terminal of 80 and one of 120 columns; what it writes there becomes a picture
for a dark and one for a light page.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.terminal_theme import DEFAULT_TERMINAL_THEME, SVG_EXPORT_THEME
from rich.text import Text

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.booted import roots
from tests.booted.booted import Booted
from tests.lab import DhcpConfig, Lan, Node, Place, Pod, ShimError, eventually
from tests.lab.machine import CHECKOUT, children

SCREENS = Path(__file__).with_name("screens")
WIDTHS = (80, 120)
THEMES = {"dark": SVG_EXPORT_THEME, "light": DEFAULT_TERMINAL_THEME}
# Without the font that would be fetched from elsewhere, and with the spaces that a line begins with.
FORMAT = re.sub(r"@font-face \{\{.*?\}\}\n|<!--.*?-->", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL).replace(
    "<svg ", '<svg xml:space="preserve" ', 1
)
CONFIG = """\
[dhcp]
timeout = "3s"
"""
CHANGED = """\
[dhcp]
timeout = "20s"
[host]
bridge = "br1"
"""
HOME = "\x1b[H"  # begins each frame of what is watched
PODS = (("default", "web-7c9f8d5b6-x2kqp"), ("kube-system", "coredns-5d78c9869d-abc12"), ("shop", "db-0"))
INDEX = """\
# What terwayctl shows

Made by `python3 docs/screens.py`, which runs each command on a node of the lab.
"""


@dataclass(frozen=True)
class Shot:
    """A command that was shown, and what is to be seen."""

    name: str
    words: str
    about: str


class Camera:
    """Takes pictures of commands on a node."""

    def __init__(self, node: Place) -> None:
        self.node = node
        self.shots: list[Shot] = []

    def take(self, name: str, words: str, about: str, *, rows: int = 0) -> None:
        """A picture of `terwayctl WORDS` in each width and theme, with `rows` of its beginning alone."""
        self.shots.append(Shot(name, words, about))
        for columns in WIDTHS:
            self._take(name, words, columns, rows=rows)

    def again(self, name: str, words: str, columns: int, *, typed: bytes = b"") -> None:
        """One width only, for a command that changes what the next one would find; `typed` are keys pressed
        when it asks."""
        self._take(name, words, columns, typed)

    def _take(self, name: str, words: str, columns: int, typed: bytes = b"", rows: int = 0) -> None:
        lines = screen(run(self.node, words.split(), columns, typed))
        if rows:
            lines = [*lines[:rows], "\x1b[2m...\x1b[0m"]
        for theme, colours in THEMES.items():
            console = Console(record=True, width=columns, file=io.StringIO(), force_terminal=True)
            console.print(Text.assemble(("# ", "dim"), (f"terwayctl {words}".strip(), "bold")))
            for line in map(Text.from_ansi, lines):
                for part in line.divide(range(columns, len(line), columns)):  # as the terminal wraps it
                    console.print(part, soft_wrap=True)
            picture = console.export_svg(title="", theme=colours, code_format=FORMAT, unique_id="terminal")
            text = "\n".join(line.rstrip() for line in picture.splitlines()) + "\n"
            (SCREENS / f"{name}-{columns}-{theme}.svg").write_text(text)

    def index(self) -> str:
        parts = [INDEX]
        for shot in self.shots:
            parts.append(f"## {shot.about}\n")
            for columns in WIDTHS:
                file = f"{shot.name}-{columns}"
                parts.append(
                    f'<picture><source media="(prefers-color-scheme: dark)" srcset="{file}-dark.svg">'
                    f'<img src="{file}-light.svg" alt="terwayctl {shot.words}, {columns} columns"></picture>\n'
                )
        return "\n".join(parts)


def run(node: Place, words: list[str], columns: int, typed: bytes) -> str:
    """What terwayctl writes to a terminal that wide; what it watches, it watches for one frame."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    process = node.popen(
        ["/usr/bin/terwayctl", *words],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={"TERM": "xterm-256color", "SYSTEMD_COLORS": "16"},  # journalctl's as the page's theme has them
    )
    os.close(slave)
    written = b""
    with contextlib.suppress(OSError):  # EIO: the other end is closed and all is read
        while piece := os.read(master, 65536):
            written += piece
            if typed and b"Keep it?" in written:
                os.write(master, typed)
                typed = b""
            if written.count(HOME.encode()) > 2:
                break
    if process.poll() is None and (frames := written.decode(errors="ignore").split(HOME))[2:]:
        os.kill(children(process.pid)[0], signal.SIGINT)
        written = frames[2].encode()
    process.wait()
    os.close(master)
    return written.decode()


def screen(written: str) -> list[str]:
    """The lines that are left on the screen: what a spinner drew over and erased is gone."""
    lines, row, fresh = [""], 0, False
    for part in re.split(r"(\r\n|\r|\n|\x1b\[\d*[AK]|\x1b\[\?\d+[hl])", written):
        if part in ("\r\n", "\n"):
            row, fresh = row + 1, True
            lines += [""] * (row + 1 - len(lines))
        elif part == "\r":
            fresh = True
        elif part.endswith("A") and part.startswith("\x1b"):
            row = max(0, row - int(part[2:-1] or 1))
        elif part.endswith("K") and part.startswith("\x1b"):
            lines[row] = ""
        elif part and not part.startswith("\x1b[?"):
            lines[row] = part if fresh else lines[row] + part
            fresh = False
    while lines[1:] and not Text.from_ansi(lines[-1]).plain.strip():
        lines.pop()
    return lines


@contextlib.contextmanager
def node_with_pods() -> Iterator[tuple[Lan, Node]]:
    with Lan(DhcpConfig(lease="12h")) as lan:
        yield lan, lan.node("n1", CONFIG)


def main() -> int:
    SCREENS.mkdir(exist_ok=True)
    for old in SCREENS.glob("*.svg"):
        old.unlink()
    with node_with_pods() as (lan, node):
        camera = Camera(node)
        camera.take("help", "--help", "What can be typed")
        camera.take("no-daemon", "status", "Without the daemon")
        camera.take("setup-dry-run", "setup --dry-run", "What would be done to this host")
        daemon = node.start_daemon().wait_ready()
        for namespace, name in PODS:
            node.pod(name, namespace).add()
        camera.take("status", "status", "A healthy host is quiet")
        camera.take("status-brief", "status --brief", "One line, for probes")
        camera.take("status-pod", "status db-0", "One pod")
        camera.take("status-watch", "status --watch", "The same again every second")
        camera.take("pods", "pods", "The pods, and where they are")
        camera.take("leases", "leases", "The leases")
        camera.take("leases-show", "leases show db-0", "All that the DHCP server has said")
        camera.take("leases-renew", "leases renew db-0", "More time, now")
        camera.take("leases-release", "leases release db-0", "A new lease for the old one")
        camera.take("config-show", "config show", "The configuration in effect")
        node.write("/etc/terway.toml", CONFIG + "[pods]\nmtu = 1400\n")
        camera.take("config-check", "config check", "A file that differs from what runs")
        node.write("/etc/terway.toml", CONFIG.replace("timeout", "timout"))
        camera.take("config-wrong", "config check", "A file that is wrong")
        node.write("/etc/terway.toml", CONFIG)
        for columns in WIDTHS:
            node.write("/etc/terway.toml", CHANGED)
            camera.again("reload", "reload", columns)
            node.write("/etc/terway.toml", CONFIG)
            node.terwayctl("reload")
        camera.shots.append(Shot("reload", "reload", "What applies at once, and what waits"))
        camera.take("cni-install", "cni install", "The plugin and its configuration in place")
        camera.take("doctor", "doctor", "What could be wrong here")
        camera.take("metrics-print", "metrics print", "Numbers for Prometheus", rows=24)
        camera.take("teardown-refused", "teardown", "Refused, and told why")
        camera.take("teardown-dry-run", "teardown --dry-run", "What teardown would do")
        node.ip("link set eth0 nomaster")
        eventually(lambda: node.status()["findings"], 10.0, "it is mended and told")
        lan.dhcp.stop(signal.SIGKILL)
        camera.take("leases-renew-fails", "leases renew db-0", "A server that does not answer")
        node.terwayctl("leases", "release", "db-0", check=False)
        camera.take("status-degraded", "status", "What is wrong, and what to do about it")
        lan.dhcp.start()
        node.terwayctl("teardown", "--force")
        camera.take("status-down", "status", "Given back")
        for columns in WIDTHS:
            camera.again("setup", "setup", columns, typed=b"\n")
            camera.again("teardown", "teardown", columns)
        camera.shots.append(Shot("setup", "setup", "By hand, and kept by ENTER"))
        camera.shots.append(Shot("teardown", "teardown", "And back"))
        daemon.term()
    with node_with_pods() as (_, node):
        camera.node = node
        on_probation(camera, node)
    with node_with_a_journal() as camera.node:
        camera.take("logs", "logs", "The story")
        camera.take("logs-pod", "logs db-1", "Of one pod")
    (SCREENS / "README.md").write_text(camera.index())
    return 0


@contextlib.contextmanager
def node_with_a_journal() -> Iterator[Place]:
    """A booted Debian with the package and pods, on which something has happened."""
    package = next((CHECKOUT / "dist").glob("terwayd_*_all.deb"))
    with Lan(DhcpConfig(lease="12h")) as lan, Booted("n1", roots.root()) as machine:
        machine.interfaces()
        shutil.copyfile(package, machine.path("/root/terwayd.deb"))
        machine.prepare("apt-get install -y --no-install-recommends /root/terwayd.deb")
        machine.write("/etc/terway.toml", CONFIG)
        machine.boot(lan)
        machine.systemctl("enable", "--now", "terwayd")
        eventually(lambda: machine.run("terwayctl status", check=False).returncode == 0, 20, "ready")
        pods = [Pod(cast("Node", machine), name, namespace, "", "eth0") for namespace, name in PODS]
        for pod in pods:
            pod.add()
        pods[0].delete()
        machine.ip("link set eth0 nomaster")
        eventually(lambda: "mended" in machine.journal("-u", "terwayd"), 10, "it is mended and told")
        lan.dhcp.stop(signal.SIGKILL)
        with contextlib.suppress(ShimError):
            Pod(cast("Node", machine), "db-1", "shop", "", "eth0").add()
        yield machine


def on_probation(camera: Camera, node: Node) -> None:
    """A takeover that waits for its confirmation, and both ends of it."""
    daemon = node.start_daemon().wait_ready()
    node.terwayctl("teardown")
    node.terwayctl("setup")
    camera.take("status-unconfirmed", "status", "Undone unless it is confirmed")
    for columns in WIDTHS:
        camera.again("rollback", "rollback", columns)
        node.terwayctl("setup")
        camera.again("confirm", "confirm", columns)
        node.terwayctl("teardown")
        node.terwayctl("setup")
    camera.shots.append(Shot("confirm", "confirm", "Kept from elsewhere"))
    camera.shots.append(Shot("rollback", "rollback", "Undone at once"))
    node.terwayctl("rollback")
    daemon.term()


if __name__ == "__main__":
    if os.geteuid() != 0:
        sys.exit("error: the lab makes network namespaces and needs root\nhint: sudo python3 docs/screens.py")
    subprocess.run(["ip", "-V"], check=True, stdout=subprocess.DEVNULL)
    sys.exit(main())
