"""The doorbell for files, with the kernel's inotify: each change rings once, and nothing else does."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from terwayd.kernel.watch import CLOSED, WRITTEN, Watch

QUIET = 0.4  # seconds in which what would ring has rung: twice the pause of the bell


def rings(path: Path, kind: int, *steps: Callable[[], object]) -> list[int]:
    """How often it has rung after each of `steps`, done one after the other."""

    async def body() -> list[int]:
        heard: list[int] = []
        watch = Watch([str(path)], kind, lambda: heard.append(1))
        counts = []
        for step in steps:
            step()
            await asyncio.sleep(QUIET)
            counts.append(len(heard))
            heard.clear()
        watch.close()
        return counts

    return asyncio.run(body())


def test_a_file_that_is_there(tmp_path: Path) -> None:
    file, other = tmp_path / "file", tmp_path / "other"
    file.write_text("a")

    def often() -> None:
        for _ in range(100):
            file.write_text("b")

    def replace() -> None:
        other.write_text("c")
        other.replace(file)

    steps = (often, file.read_text, replace, lambda: file.write_text("d"), lambda: other.write_text("beside"))
    assert rings(file, WRITTEN, *steps) == [1, 0, 1, 1, 0]


def test_a_lock_is_given_back(tmp_path: Path) -> None:
    """Taken as iptables does: opened for reading, and made where it is not there."""
    lock = tmp_path / "lock"
    held: list[int] = []

    def take() -> None:
        held.append(os.open(lock, os.O_CREAT, 0o600))

    def give_back() -> None:
        os.close(held.pop())

    def remove() -> None:
        lock.unlink()

    def both() -> None:
        take()
        give_back()

    steps = (both, take, give_back, take, remove, give_back, take, give_back)
    assert rings(lock, CLOSED, *steps) == [1, 0, 1, 0, 1, 0, 1, 1]


def test_a_lock_that_a_container_has_mounted(tmp_path: Path) -> None:
    lock, elsewhere = tmp_path / "lock", tmp_path / "elsewhere"
    lock.touch()
    elsewhere.touch()
    script = f"mount --bind {lock} {elsewhere} && flock {elsewhere} true"
    steps = [lambda: subprocess.run(["unshare", "--mount", "sh", "-ec", script], check=True)]
    assert rings(lock, CLOSED, *steps) == [1]


def test_what_is_not_there_yet(tmp_path: Path) -> None:
    """Its directories neither; what else comes there is heard, and rings nobody."""
    file = tmp_path / "etc/kubernetes/kubelet.conf"
    steps = (
        lambda: (tmp_path / "etc2").mkdir(),
        lambda: file.parents[1].mkdir(),
        lambda: (file.parents[1] / "passwd").touch(),
        file.parent.mkdir,
        lambda: (file.parent / "pki").mkdir(),
        lambda: file.write_text("a"),
        lambda: file.write_text("b"),
        lambda: shutil.rmtree(file.parent),
        lambda: (tmp_path / "etc/other").mkdir(),
        file.parent.mkdir,
    )
    assert rings(file, WRITTEN, *steps) == [0, 1, 0, 1, 0, 1, 1, 1, 0, 1]


def test_a_whole_tree_appears_at_once(tmp_path: Path) -> None:
    file = tmp_path / "a/b/c/file"

    def appear() -> None:
        file.parent.mkdir(parents=True)
        file.write_text("a")

    assert rings(file, WRITTEN, appear, lambda: file.write_text("b")) == [1, 1]


def test_a_file_where_a_directory_shall_be(tmp_path: Path) -> None:
    above = tmp_path / "above"
    above.touch()

    def make_room() -> None:
        above.unlink()
        above.mkdir()

    steps = (make_room, (above / "file").touch)
    assert rings(above / "file", WRITTEN, lambda: above.write_text("a"), *steps) == [0, 1, 1]


def test_nobody_is_called_once_it_is_closed(tmp_path: Path) -> None:
    heard: list[int] = []

    async def body() -> None:
        watch = Watch([str(tmp_path / "file")], WRITTEN, lambda: heard.append(1))
        (tmp_path / "file").touch()
        await asyncio.sleep(0.05)  # the bell waits
        watch.close()
        await asyncio.sleep(QUIET)

    asyncio.run(body())
    assert not heard


def test_the_kernel_has_no_more_of_it() -> None:
    source = (
        "import asyncio\nfrom pathlib import Path\nfrom terwayd.kernel.watch import WRITTEN, Watch\n"
        "Path('/proc/sys/user/max_inotify_instances').write_text('0')\n"
        "async def watch():\n    Watch(['/etc/passwd'], WRITTEN, print)\n"
        "asyncio.run(watch())"
    )
    command = ["unshare", "--user", "--map-root-user", sys.executable, "-c", source]
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": root}, capture_output=True, text=True, check=False
    )
    if "max_inotify_instances'" in done.stderr:
        pytest.skip("this kernel has no limit for a user namespace")
    assert "OSError: [Errno 24] inotify_init1: Too many open files" in done.stderr
