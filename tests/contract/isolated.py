"""Runs functions in a process with network, mounts and processes of its own, and a LAN of two ends.

The process that a test forks has `eth0`, and in the namespace `lan` its other end `lan0` with the
gateway's addresses.  When it ends, the kernel removes all of it, whatever it has started.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import select
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_NAMESPACES = 0x40000000 | 0x20000000 | 0x04000000 | 0x00020000  # CLONE_NEWNET, NEWPID, NEWUTS, NEWNS
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)

MAC, LAN_MAC = "52:54:00:00:00:0a", "52:54:00:00:00:01"
GATEWAY, GATEWAY6 = "192.0.2.1", "2001:db8::1"
PLAIN = (
    "addr add 192.0.2.10/24 brd + dev eth0",
    f"route add default via {GATEWAY} dev eth0",
    "addr add 2001:db8::10/64 dev eth0 nodad",
    f"-6 route add default via {GATEWAY6} dev eth0",
)


def check(module: str, function: str, *arguments: str, timeout: float = 60.0) -> str:
    """Run `function` of `module` in namespaces of its own; what it printed.  Where it fails, the test does."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads that there might be
        pid = os.fork()
    if pid == 0:
        os.close(reading)
        os._exit(_in_namespaces(writing, lambda: _call(module, function, *arguments)))
    os.close(writing)
    try:
        output, in_time = _read(reading, time.monotonic() + timeout)
        if not in_time:
            os.kill(pid, signal.SIGKILL)
    finally:
        status = os.waitpid(pid, 0)[1]
        os.close(reading)
    if status != 0 or not in_time:
        late = "" if in_time else f" did not end within {timeout:g} s"
        pytest.fail(f"{function}{arguments}{late}\n{output}", pytrace=False)
    return output


def _read(descriptor: int, deadline: float) -> tuple[str, bool]:
    """All that comes until everybody has closed it, and whether that was in time."""
    data = b""
    while select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))[0]:
        chunk = os.read(descriptor, 65536)
        if not chunk:
            return data.decode(errors="replace"), True
        data += chunk
    return data.decode(errors="replace"), False


def _in_namespaces(output: int, work: Callable[[], int]) -> int:
    """Run `work` as the first process of new namespaces: when it ends, all that it started does."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if _libc.unshare(_NAMESPACES) != 0:
        os.write(output, f"unshare: {os.strerror(ctypes.get_errno())}".encode())
        return 1
    if (first := os.fork()) == 0:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        nothing = os.open("/dev/null", os.O_RDONLY)
        for target, source in ((0, nothing), (1, output), (2, output)):
            os.dup2(source, target)
        os.closerange(3, 256)
        os._exit(work())
    os.close(output)
    status = os.waitstatus_to_exitcode(os.waitpid(first, 0)[1])
    return status & 0xFF


def _call(module: str, function: str, *arguments: str) -> int:
    sys.stdout = sys.stderr = os.fdopen(1, "w", buffering=1, closefd=False)
    os.chdir(ROOT)
    try:
        run("mount", "--make-rprivate", "/")
        run("mount", "-t", "proc", "proc", "/proc")
        for directory in ("/run", "/var/lib"):
            run("mount", "-t", "tmpfs", "tmpfs", directory)
        run("mount", "-t", "sysfs", "sysfs", "/sys")
        getattr(importlib.import_module(module), function)(*arguments)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def run(*command: str) -> str:
    """The output of a command that has to succeed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stderr}"
    return done.stdout


def ip(*commands: str, netns: str = "") -> None:
    """`ip` commands (without the word) one after the other."""
    where = f"-n {netns} " if netns else ""
    run("sh", "-ec", "\n".join(f"ip {where}{command}" for command in commands))


def sysctl(key: str, value: str) -> None:
    Path("/proc/sys", key).write_text(value)


def wire(mtu: int = 1500) -> None:
    """Plug eth0 into the LAN, where somebody answers for the gateway's addresses."""
    run("ip", "netns", "add", "lan")
    ip(
        "link set lo up",
        f"link add eth0 address {MAC} mtu {mtu} type veth"
        f" peer name lan0 address {LAN_MAC} mtu {mtu} netns lan",
    )
    ip(
        *("link set lo up", "link set lan0 addrgenmode none", "link set lan0 up"),
        *(f"addr add {GATEWAY}/24 dev lan0", f"addr add {GATEWAY6}/64 dev lan0 nodad"),
        "addr add fe80::1/64 dev lan0 nodad",
        netns="lan",
    )
    sysctl("net/ipv6/conf/eth0/accept_dad", "0")  # its link-local address is of use at once
    ip("link set eth0 up")
    until(lambda: "fe80:" in run("ip", "-6", "addr", "show", "dev", "eth0", "-tentative"))
    sysctl("net/ipv6/conf/eth0/accept_dad", "1")


def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.01)
