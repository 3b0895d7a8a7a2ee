"""Roots of freshly installed Debian systems, made once by mmdebstrap and then only read.

They lie in $XDG_CACHE_HOME or /var/cache, named after what they are made of; a change of the recipe
makes a new one.  The packages that terwayd depends on are in apt's archive there but not installed,
so that `apt install ./terwayd.deb` installs them as it would for a user, without a download.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.lab.errors import LabError

# What a small server has: systemd, and the manager of the NIC.
INSTALLED = ("systemd", "systemd-sysv", "dbus", "iproute2", "ifupdown", "iputils-ping", "apt")
AVAILABLE = ("python3", "python3-pyroute2", "python3-typer", "python3-systemd", "python3-rich", "nftables")
RECIPE = """
mmdebstrap --quiet --variant=minbase --skip=cleanup/apt "--include=$3" --customize-hook="
    APT_CONFIG=\\$MMDEBSTRAP_APT_CONFIG apt-get -q -y install --download-only --no-install-recommends $4" "$1" "$2"
"""


def root(suite: str = "bookworm", extra: tuple[str, ...] = ()) -> Path:
    """The root of a Debian `suite` with `extra` packages; made now if there is none yet (20 to 60 s)."""
    if missing := [tool for tool in ("mmdebstrap", "systemd-nspawn") if not Path("/usr/bin", tool).exists()]:
        raise LabError(f"{missing[0]} is not installed: apt-get install mmdebstrap systemd-container")
    words = (suite, ",".join((*INSTALLED, *extra)), " ".join(AVAILABLE))
    key = hashlib.sha256("\n".join((RECIPE, *words)).encode()).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "/var/cache") / "terwayd-tests"
    cache.mkdir(parents=True, exist_ok=True)
    target = cache / f"{suite}-{key}"
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.is_dir():
            for stale in cache.glob("making.*"):  # whoever made it was killed: the lock is ours
                shutil.rmtree(stale)
            _make(target, words)
    return target


def _make(target: Path, words: tuple[str, str, str]) -> None:
    made = Path(tempfile.mkdtemp(prefix="making.", dir=target.parent))
    made.chmod(0o755)
    suite, installed, available = words
    # Mounts and processes of a making that is interrupted end with these namespaces.
    unshare = ["unshare", "--mount", "--pid", "--mount-proc", "--fork", "--kill-child"]
    environment = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "DEBIAN_FRONTEND": "noninteractive",
    }
    script = ["sh", "-c", RECIPE, "sh", suite, str(made), installed, available]
    done = subprocess.run(
        [*unshare, *script],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=900,
    )
    if done.returncode != 0:
        shutil.rmtree(made)
        raise LabError(
            f"no root of Debian {suite}: exit code {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
        )
    made.rename(target)
