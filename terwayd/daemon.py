"""The process: options, socket, signals, systemd; everything else is the node's.

SIGTERM ends it and leaves the network and the leases as they are; SIGHUP has it read its configuration
again.  A host that cannot be taken over is no reason to end: the daemon says so, serves, and tries
again when the network changes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import signal
import socket
import time
from pathlib import Path

from terwayd import __version__, config, systemd
from terwayd.api.http import Exporter
from terwayd.api.methods import Methods
from terwayd.api.varlink import Server
from terwayd.condition import Condition
from terwayd.errors import ConfigError, Refused, RolledBack, TerwayError
from terwayd.host import dead_man
from terwayd.host.drift import Pause
from terwayd.kernel import netns
from terwayd.kernel.monitor import Monitor
from terwayd.node import Node
from terwayd.store import Store

log = logging.getLogger(__name__)

SOCKET = "/run/terwayd.sock"
_RETRY = 5.0  # seconds, for what no netlink message tells of


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="terwayd",
        description="Bridges the host's NIC and leases a LAN address for every pod: see terwayd(8)",
    )
    parser.add_argument("--config", default=config.DEFAULT_PATH, help="configuration file (%(default)s)")
    parser.add_argument("--debug", action="store_true", help="log every call and packet")
    parser.add_argument(
        "--this-host",
        action="store_true",
        help="take this machine's own NIC over although systemd did not start us",
    )
    parser.add_argument(dead_man.OPTION, nargs=2, metavar=("SECONDS", "NAME"), help=argparse.SUPPRESS)
    parser.add_argument("--version", action="version", version=f"terwayd {__version__}")
    return parser.parse_args(arguments)


def read_config(path: str) -> config.Config:
    """The configuration in `path`; a file that is not there is an empty one."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        text = ""
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}", hint=f"ls -l {path}") from None
    return config.parse(text, path)


async def run(given: argparse.Namespace) -> None:
    """Serve until SIGTERM or SIGINT."""
    if not (systemd.started_us() or given.this_host) and netns.is_the_machines():
        raise TerwayError(
            "this is the machine's own network, and systemd did not start terwayd",
            hint="systemctl start terwayd, or terwayd --this-host",
        )
    node = Node(read_config(given.config), Store(), on_change=lambda: _show(node))
    passed = systemd.passed_socket()
    methods = Methods(node, lambda: _reload(node, given.config))
    server = Server(passed or _listen(SOCKET), methods.handle)
    exporter = Exporter(node.config.metrics.listen, methods.metrics_page)
    ending = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ending.set)
    asyncio.get_running_loop().add_signal_handler(
        signal.SIGHUP, lambda: node.spawn(_reload_anyhow(node, given.config))
    )
    server.start()
    await exporter.start()
    tasks = [asyncio.create_task(_keep_up(node)), asyncio.create_task(_watchdog(node))]
    try:
        ended = asyncio.create_task(ending.wait())
        done, _ = await asyncio.wait({ended, *tasks}, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()  # a task that broke breaks the daemon; systemd starts it again
    finally:
        systemd.notify("STOPPING=1")
        await server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        exporter.close()
        await node.settled()
        if passed is None:
            Path(SOCKET).unlink(missing_ok=True)
        node.close()


async def _keep_up(node: Node) -> None:
    """Bring the node up; where the network is not ready for it, again when that has changed.

    A host that must not be taken over, or where it was tried and undone, is left alone: nothing but
    an administrator changes that.
    """
    changed, pause = asyncio.Event(), Pause()
    monitor = Monitor(changed.set)
    try:
        while True:
            await node.look()
            if monitor.vanished and node.known_pods is not None:
                monitor.vanished = False
                await node.known_pods.sweep()
            if node.health.condition in {Condition.STARTING, Condition.DEGRADED} and not node.fighting:
                touched = node.takeover.touched
                try:
                    await node.bring_up()
                    pause = Pause()
                except (Refused, RolledBack):
                    break
                except TerwayError:  # the node's health has it
                    if node.takeover.touched > touched:  # and our own steps ring the bell
                        systemd.notify("READY=1")
                        await _leave_alone(node, changed, pause.failed())
                        continue
            systemd.notify("READY=1")
            changed.clear()
            ready = node.health.condition is Condition.READY
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), None if ready else _RETRY)
    finally:
        monitor.close()
    log.error("this host is left alone until terwayctl setup or systemctl restart terwayd")
    systemd.notify("READY=1")
    await asyncio.Event().wait()


async def _leave_alone(node: Node, changed: asyncio.Event, seconds: float) -> None:
    """Return after `seconds`, or when an administrator has brought the node up meanwhile."""
    end = time.monotonic() + seconds
    while node.health.condition is Condition.DEGRADED and (left := end - time.monotonic()) > 0:
        changed.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(changed.wait(), min(left, _RETRY))


async def _reload(node: Node, path: str) -> config.Reload:
    """Read `path` again and apply what can be applied now.  TerwayError: the old configuration stays."""
    systemd.notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
    try:
        done = await node.reconfigure(read_config(path))
    except TerwayError as error:
        node.told.not_reloaded(error)
        raise
    finally:
        systemd.notify("READY=1")
        _show(node)
    return done


async def _reload_anyhow(node: Node, path: str) -> None:
    with contextlib.suppress(TerwayError):  # the log has it
        await _reload(node, path)


def _show(node: Node) -> None:
    """The line that systemctl status shows."""
    health, pods = node.health, len(node.known_pods) if node.known_pods is not None else 0
    systemd.notify(
        f"STATUS={health.condition.value}, {f'{pods} pods' if not health.reason else health.reason}"
    )


async def _watchdog(node: Node) -> None:
    """Ping the service manager's watchdog while both the event loop and the netlink thread answer.

    That thread may be at a takeover, which takes its time; then the dead man sets the limit.
    """
    interval = systemd.watchdog_interval()
    if interval is None:
        await asyncio.Event().wait()
        return
    while True:
        answer = asyncio.ensure_future(node.worker.call(lambda netlink: netlink.link("lo")))
        while not answer.done() and time.monotonic() < node.takeover.busy_until:
            systemd.notify("WATCHDOG=1")
            await asyncio.wait({answer}, timeout=interval)
        await answer
        systemd.notify("WATCHDOG=1")
        await asyncio.sleep(interval)


def _listen(path: str) -> socket.socket:
    """The socket that terwayd.socket would have passed."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with contextlib.suppress(FileNotFoundError):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            if probe.connect_ex(path) == 0:
                raise TerwayError(f"another terwayd serves {path}", hint="systemctl status terwayd")
        Path(path).unlink()
    listener.bind(path)
    Path(path).chmod(0o600)
    listener.listen(512)
    return listener
