"""PID 1 of a machine of the lab; started by machine.py as `unshare ... python3 -IS init.py JSON`.

Builds the machine's own root (an overlay over the real one, which it never writes to), says
"ready PID" with its process id as the real machine sees it, and then reaps orphans until its standard
input closes: when whoever started the machine is gone, PID 1 ends, and the kernel ends all the rest.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys

MS_BIND, MS_REC, MNT_DETACH = 0x1000, 0x4000, 2
STAGE = "/tmp"  # any directory that is there; hidden by a tmpfs in this mount namespace only
# What an installed package of terwayd, or any CNI, left on the real machine is not part of a new one.
ABSENT = (
    "/etc/cni",
    "/opt/cni",
    "/var/lib/cni",
    "/var/lib/terwayd",
    "/etc/terway.toml",
    "/usr/sbin/terwayd",
    "/usr/bin/terwayctl",
    "/usr/lib/cni/cni-terway",
    "/usr/lib/python3/dist-packages/terwayd",
    "/usr/lib/python3/dist-packages/terwayctl",
)

libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source: str, target: str, kind: str, flags: int = 0, data: str = "") -> None:
    os.makedirs(target, exist_ok=True)  # noqa: PTH103 - pathlib costs 10 ms of start
    arguments = [text.encode() for text in (source, target, kind)]
    check(libc.mount(*arguments, ctypes.c_ulong(flags), data.encode()), f"mount {kind or 'bind'} on {target}")


def build_root(binds: list[str]) -> None:
    # Descriptors, because a bind's source may lie below a directory that is about to be hidden.
    sources = {path: os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) for path in binds}
    mount("lab", STAGE, "tmpfs", data="mode=755")
    root = f"{STAGE}/root"
    lowers = ["/", *(path for path in ("/usr", "/var", "/etc", "/opt") if os.path.ismount(path))]
    for number, lower in enumerate(lowers):
        upper, work = f"{STAGE}/upper{number}", f"{STAGE}/work{number}"
        os.mkdir(upper, 0o755)  # noqa: PTH102
        os.mkdir(work, 0o755)  # noqa: PTH102
        mount(
            "lab",
            root + lower.rstrip("/"),
            "overlay",
            data=f"lowerdir={lower},upperdir={upper},workdir={work}",
        )
    mount("proc", f"{root}/proc", "proc")
    mount("sysfs", f"{root}/sys", "sysfs")
    mount("/sys/fs/cgroup", f"{root}/sys/fs/cgroup", "", MS_BIND | MS_REC)
    mount("/dev", f"{root}/dev", "", MS_BIND | MS_REC)
    mount("lab", f"{root}/dev/shm", "tmpfs", data="mode=1777")
    mount("lab", f"{root}/run", "tmpfs", data="mode=755")
    mount("lab", f"{root}/tmp", "tmpfs", data="mode=1777")
    for path, descriptor in sources.items():
        mount(f"/proc/self/fd/{descriptor}", root + path, "", MS_BIND | MS_REC)
        os.close(descriptor)
    os.chdir(root)
    check(libc.pivot_root(b".", b"."), "pivot_root")
    check(libc.umount2(b".", MNT_DETACH), "umount of the old root")
    os.chdir("/")
    leftovers = [path for path in ABSENT if os.path.lexists(path)]
    if leftovers:
        os.spawnv(os.P_WAIT, "/bin/rm", ["rm", "-rf", *leftovers])
    os.makedirs("/run/lock", exist_ok=True)  # noqa: PTH103


def reap(*_: object) -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def main() -> None:
    order = json.loads(sys.argv[1])
    pid = os.readlink("/proc/self")  # noqa: PTH115 - still the real machine's /proc, thus its number
    name = order["name"].encode()
    check(libc.sethostname(name, len(name)), "sethostname")
    if order["root"]:
        build_root(order["binds"])
    else:
        mount("sysfs", "/sys", "sysfs")
    for sysctl, value in order["sysctls"].items():
        with open(f"/proc/sys/{sysctl}", "w") as file:  # noqa: PTH123
            file.write(value)
    signal.signal(signal.SIGCHLD, reap)
    os.write(1, f"ready {pid}\n".encode())
    nothing = os.open("/dev/null", os.O_RDWR)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    while os.read(0, 1):
        pass


main()
