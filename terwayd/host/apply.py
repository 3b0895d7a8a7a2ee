"""Doing the steps in order, in the netlink thread: netlink calls, files below /run, managers' commands."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import signal
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

from terwayd.errors import HostError, KernelError
from terwayd.host import commands, interfaces, moves
from terwayd.host.find_managers import client_pids
from terwayd.host.steps import Step
from terwayd.kernel import local
from terwayd.kernel.netlink import Netlink
from terwayd.kernel.nftables import Nftables
from terwayd.kernel.sysctl import write_sysctl

log = logging.getLogger(__name__)

TIMEOUT = 10.0  # seconds that a manager's command may take
_NO_NFTABLES = {errno.EPROTONOSUPPORT, errno.EOPNOTSUPP}  # of a kernel that has none
_CARRIER = 1.5  # seconds that the kernel may take to tell the bridge that its port has a carrier


def apply(netlink: Netlink, steps: Iterable[Step]) -> None:
    """Do `steps` in order; raises KernelError at the first that the kernel refuses."""
    for step in steps:
        do(netlink, step)


def apply_all(netlink: Netlink, steps: Iterable[Step]) -> list[Exception]:
    """Do every one of `steps`, whatever becomes of the others; what was refused is returned."""
    refused: list[Exception] = []
    for step in steps:
        try:
            do(netlink, step)
        except Exception as error:  # an undo goes on: each step that works brings the host nearer
            refused.append(error)
    return refused


def do(netlink: Netlink, step: Step) -> None:
    """Do one step; done already is done."""
    match step:
        case interfaces.AddBridge(name, mac, mtu):
            netlink.add_bridge(name, mac, mtu)
        case interfaces.DelLink(name):
            netlink.delete_link(name)
        case interfaces.SetUp(dev):
            netlink.set_link(dev, state="up")
        case interfaces.SetDown(dev):
            netlink.set_link(dev, state="down")
        case interfaces.SetAlias(dev, alias):
            netlink.set_link(dev, ifalias=alias)
        case interfaces.SetMac(dev, mac):
            netlink.set_link(dev, address=mac)
        case interfaces.SetMtu(dev, mtu):
            netlink.set_link(dev, mtu=mtu)
        case interfaces.Enslave(dev, bridge):
            netlink.set_link(dev, master=netlink.index(bridge))
            netlink.set_port(dev, isolated=1)
        case interfaces.Release(dev, _):
            netlink.set_link(dev, master=0)
        case interfaces.AddPort(bridge):
            local.plug(netlink, bridge)
        case interfaces.Divert():
            _divert(netlink, step)
        case interfaces.EndDivert():
            _end_divert()
        case interfaces.SetSysctl(key, value):
            write_sysctl(key, value)
        case moves.AddAddress(address):
            netlink.add_address(address)
        case moves.DelAddress(address):
            netlink.delete_address(address)
        case moves.AddNeighbour(neighbour):
            netlink.add_neighbour(neighbour)
        case moves.AddRule(rule):
            netlink.add_rule(rule)
        case moves.DelRule(rule):
            netlink.delete_rule(rule)
        case moves.AddRoute(route):
            netlink.add_route(route)
        case moves.DelRoute(route):
            netlink.delete_route(route)
        case commands.WriteFile(path, text):
            _write(Path(path), text)
        case commands.RemoveFile(path):
            _remove(Path(path))
        case commands.Run(command):
            _run(command)
        case commands.StopClient(name, dev):
            _kill(name, dev)
        case commands.StartClient(name, dev, command):
            if not client_pids(name, dev):
                _run(command)


def _divert(netlink: Netlink, step: interfaces.Divert) -> None:
    """Only where the port leads to the bridge: elsewhere it would swallow what it is given."""
    end = time.monotonic() + _CARRIER
    while not (carries := local.carries(netlink, step.bridge)) and time.monotonic() < end:
        time.sleep(0.01)
    if not carries:
        log.info("%s has no way in but %s: a packet may be lost as that moves", step.bridge, step.dev)
        return
    try:
        _run(step.command)
    except HostError as error:
        log.info("a packet may be lost as %s moves: %s", step.dev, error)


def _end_divert() -> None:
    """KernelError when it goes on: once the port is gone, the NIC would be deaf."""
    try:
        with contextlib.closing(Nftables()) as nftables:
            for family, table in interfaces.DIVERT_TABLES:
                nftables.delete_table(family, table)
    except (KernelError, OSError) as error:
        if error.errno not in _NO_NFTABLES:
            raise KernelError(str(error), error.errno or 0) from None


def diverts() -> bool:
    """Whether what comes in on the NIC goes past it."""
    with contextlib.suppress(KernelError, OSError), contextlib.closing(Nftables()) as nftables:
        return any(nftables.chains(family, table) for family, table in interfaces.DIVERT_TABLES)
    return False


def _write(path: Path, text: str) -> None:
    """Write the whole file or nothing; the managers, which may run as users of their own, can read it."""
    new = path.with_name(f".{path.name}.new")
    try:
        missing = [parent for parent in path.parents if not parent.exists()]
        for parent in reversed(missing):
            parent.mkdir()
            parent.chmod(0o755)
        new.write_text(text, encoding="utf-8")
        new.chmod(0o644)
        new.replace(path)
    except OSError as error:
        raise HostError(f"{path} cannot be written: {error.strerror}", hint=f"ls -ld {path.parent}") from None


def _remove(path: Path) -> None:
    """Remove a file, and its directory where nothing else is in it."""
    try:
        path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            path.parent.rmdir()
    except OSError as error:
        raise HostError(f"{path} cannot be removed: {error.strerror}", hint=f"rm {path}") from None


def _run(command: tuple[str, ...]) -> None:
    shown = " ".join(command)
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=TIMEOUT,
            start_new_session=True,
        )
    except subprocess.TimeoutExpired:
        raise HostError(f"{shown} did not end within {TIMEOUT:g} s", hint=shown) from None
    except OSError as error:
        raise HostError(f"{shown}: {error.strerror}", hint=shown) from None
    if done.returncode != 0:
        said = done.stdout.decode(errors="replace").strip().splitlines()
        raise HostError(f"{shown}: {said[-1] if said else f'exit code {done.returncode}'}", hint=shown)


def _kill(name: str, dev: str) -> None:
    """SIGKILL: on any other signal the client would take the address away, or release it."""
    for pid in client_pids(name, dev):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
        except PermissionError:  # dhcpcd runs as a user of its own, and CAP_KILL is none of ours
            _run(("systemd-run", "--quiet", "--wait", "--collect", "/bin/sh", "-c", f"kill -KILL {pid}"))
        except OSError as error:
            raise KernelError(
                f"{name} on {dev} cannot be ended: {error.strerror}", error.errno or 0
            ) from None
