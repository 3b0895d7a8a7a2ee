"""Runs functions in a process with network, mounts and processes of its own, and a LAN of two ends.

The process that a test starts has `eth0`, and in the namespace `lan` its other end `lan0` with the
gateway's addresses.  When it ends, the kernel removes all of it, whatever it has started.
"""

from __future__ import annotations

import importlib
import logging
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAC, LAN_MAC = "52:54:00:00:00:0a", "52:54:00:00:00:01"
GATEWAY, GATEWAY6 = "192.0.2.1", "2001:db8::1"
PLAIN = (
    "addr add 192.0.2.10/24 brd + dev eth0",
    f"route add default via {GATEWAY} dev eth0",
    "addr add 2001:db8::10/64 dev eth0 nodad",
    f"-6 route add default via {GATEWAY6} dev eth0",
)


def check(module: str, function: str, *arguments: str, timeout: float = 60.0) -> str:
    """Run `function` of `module` in namespaces of its own; what it printed.  the test fails where it does."""
    unshare = ["unshare", "--net", "--mount", "--pid", "--uts", "--mount-proc", "--fork", "--kill-child"]
    command = [*unshare, sys.executable, "-m", __name__, module, function, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False)
    if done.returncode != 0:
        pytest.fail(f"{function}{arguments}\n{done.stdout}{done.stderr}", pytrace=False)
    return done.stdout


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


def main(module: str, function: str, *arguments: str) -> None:
    logging.basicConfig(level=logging.DEBUG)
    for directory in ("/run", "/var/lib"):
        run("mount", "-t", "tmpfs", "tmpfs", directory)
    run("mount", "-t", "sysfs", "sysfs", "/sys")
    getattr(importlib.import_module(module), function)(*arguments)


if __name__ == "__main__":
    main(*sys.argv[1:])
