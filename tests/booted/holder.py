"""Holds one booted machine for a test: its root and its processes end when the test does.

Started as a script by booted.Booted, with the read-only root and the directory of the machine's
root as arguments.  It makes a mount and a PID namespace with a fresh overlay of the root, prints the
PID of the process that stands in them, and waits for the end of its standard input, which comes
with the death of the test too, however that died.  Then nothing is left: the kernel removes the
namespaces with all processes and mounts, and this removes the control groups.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

SCRIPT = """
set -e
mount -t proc proc /proc
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/upper /run/work "$2"
mount -t overlay -o "lowerdir=$1,upperdir=/run/upper,workdir=/run/work" overlay "$2"
echo ready
exec cat >/dev/null
"""
PR_SET_PDEATHSIG = 1


def cgroups(pid: int) -> list[Path]:
    """The control groups of the holder `pid`: one a hierarchy that systemd uses."""
    top = Path("/sys/fs/cgroup")
    hybrid = [top / name for name in ("systemd", "unified") if (top / name).is_dir()]
    return [hierarchy / f"terwayd-booted-{pid}" for hierarchy in hybrid or [top]]


def _die_with_parent() -> None:
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def main(lower: str, root: str) -> None:
    """Hold until standard input ends."""
    groups = cgroups(os.getpid())
    for group in groups:
        group.mkdir()
    try:
        unshare = subprocess.Popen(
            ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", SCRIPT, "sh", lower, root],
            preexec_fn=_die_with_parent,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert unshare.stdout is not None
        if unshare.stdout.readline() == "ready\n":
            print(Path(f"/proc/{unshare.pid}/task/{unshare.pid}/children").read_text(), flush=True)
        unshare.wait()  # for the end of PID 1, `cat`, which ends with our standard input and takes all others along
    finally:
        for group in groups:
            for directory, _, _ in os.walk(group, topdown=False):
                _remove(Path(directory))


def _remove(group: Path) -> None:
    """Remove a control group; the last of its killed processes may be about to go."""
    deadline = time.monotonic() + 5
    while (group / "cgroup.procs").read_text() and time.monotonic() < deadline:
        time.sleep(0.01)
    group.rmdir()


if __name__ == "__main__":
    main(*sys.argv[1:])
