"""The state database: what is written is there for the next process, and a broken file stops nobody."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from terwayd.clock import Epoch
from terwayd.errors import StoreError
from terwayd.store import AttachmentRecord, Store, TakeoverRecord

KEY = ("terway", "c0ffee", "eth0")
EPOCH = Epoch("boot-1", 1234.5)
ATTACHED = AttachmentRecord({"name": "web-0", "mac": "ä\udcff"}, {"address": "192.0.2.7/24"}, EPOCH)
TAKEN = TakeoverRecord("boot-1", "applying", {"steps": [{"is": "SetUp", "dev": "eth0"}]})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lib" / "terwayd" / "state.db"


def reopened(store: Store) -> Store:
    store.close()
    return Store(store.path)


def test_a_new_one_is_empty_and_for_root_alone(path: Path) -> None:
    store = Store(path)
    assert (store.takeover(), store.attachments(), store.set_aside) == (None, [], None)
    store.write_attachment(KEY, ATTACHED)
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o777 for file in path.parent.iterdir()} == {0o600}
    store.close()


def test_a_takeover_is_there_afterwards(path: Path) -> None:
    store = Store(path)
    store.write_takeover(TAKEN)
    store = reopened(store)
    assert store.takeover() == TAKEN
    up = TakeoverRecord("boot-2", "up", {})
    store.write_takeover(up)
    store = reopened(store)
    assert store.takeover() == up
    store.clear_takeover()
    store = reopened(store)
    assert store.takeover() is None
    store.close()


def test_attachments_are_there_afterwards(path: Path) -> None:
    store = Store(path)
    other = AttachmentRecord({"name": "web-1"}, None, Epoch("boot-2", -1.0))
    store.write_attachment(KEY, AttachmentRecord({"name": "web-0"}, None, EPOCH))
    store.write_attachment(KEY, ATTACHED)
    store.write_attachment(("terway", "c0ffee", "net1"), other)
    store = reopened(store)
    assert store.attachments() == [ATTACHED, other]
    store.delete_attachment(KEY)
    store.delete_attachment(("terway", "nobody", "eth0"))
    store = reopened(store)
    assert store.attachments() == [other]
    store.close()


def test_the_journal_is_on_the_disk_a_pod_in_its_own_time(path: Path) -> None:
    """With WAL only FULL syncs at each commit; what SQLite was told is asked of SQLite itself."""
    store = Store(path)
    assert store._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    store.write_takeover(TAKEN)
    assert store._db.execute("PRAGMA synchronous").fetchone() == (2,)
    store.write_attachment(KEY, ATTACHED)
    assert store._db.execute("PRAGMA synchronous").fetchone() == (1,)
    store.clear_takeover()
    assert store._db.execute("PRAGMA synchronous").fetchone() == (2,)
    store.close()


def test_a_killed_process_has_written_it(path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from tests.core import test_store as t\n"
        "store = t.Store(Path(sys.argv[1])); store.write_takeover(t.TAKEN); store.write_attachment(t.KEY, t.ATTACHED)\n"
        "os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=Path(__file__).parents[2], check=False)
    assert done.returncode == -9
    store = Store(path)
    assert store.takeover() == TAKEN
    assert store.attachments() == [ATTACHED]
    assert store.set_aside is None
    store.close()


def filled(path: Path) -> bytes:
    """A database in one file, with more pages than one."""
    store = Store(path)
    store.write_takeover(TAKEN)
    for number in range(200):
        store.write_attachment(("terway", str(number), "eth0"), ATTACHED)
    store._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    store.close()
    return path.read_bytes()


def in_the_index(path: Path, whole: bytes) -> bytes:
    """The rows can all be read, but not be found by their key."""
    db = sqlite3.connect(path)
    (page,) = db.execute("SELECT rootpage FROM sqlite_schema WHERE type = 'index'").fetchone()
    (size,) = db.execute("PRAGMA page_size").fetchone()
    db.close()
    at = (page - 1) * size
    return whole[:at] + b"\xa5" * 8 + whole[at + 8 :]


@pytest.mark.parametrize("damage", ["text", "header", "middle", "index", "cut", "json", "tables"])
def test_a_broken_file_is_set_aside_and_kept(
    path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    whole = filled(path)
    broken = {
        "text": b"this is no database\n" * 400,
        "header": b"\xff" * 100 + whole[100:],
        "middle": whole[:4096] + b"\xa5" * (len(whole) - 8192) + whole[-4096:],
        "index": in_the_index(path, whole),
        "cut": whole[: len(whole) // 2],
    }.get(damage, whole)
    path.write_bytes(broken)
    if damage in {"json", "tables"}:
        with sqlite3.connect(path) as db:
            db.execute(
                "UPDATE attachments SET pod = '{' WHERE container_id = '7'"
                if damage == "json"
                else "DROP TABLE takeover"
            )
        db.close()
        broken = path.read_bytes()
    store = Store(path)
    assert store.set_aside == path.with_suffix(".broken-0")
    assert store.set_aside.read_bytes() == broken
    assert f"{path} cannot be read" in caplog.text
    assert str(store.set_aside) in caplog.text
    assert (store.takeover(), store.attachments()) == (None, [])
    store.write_attachment(KEY, ATTACHED)
    store = reopened(store)
    assert store.attachments() == [ATTACHED]
    assert store.set_aside is None
    store.close()
    path.write_bytes(b"broken once more" * 100)
    store = Store(path)
    assert store.set_aside == path.with_suffix(".broken-1")
    store.close()


def test_an_empty_file_is_a_new_one(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.touch()
    store = Store(path)
    assert store.set_aside is None
    store.write_attachment(KEY, ATTACHED)
    store.close()


def test_one_of_a_newer_terwayd_is_left_alone(path: Path) -> None:
    filled(path)
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match=r"newer terwayd \(format 99, this one knows 1\)") as caught:
        Store(path)
    assert str(path) in caught.value.hint
    assert path.read_bytes() == before


def test_a_place_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"Not a directory|File exists"):
        Store(tmp_path / "file" / "state.db")
    (tmp_path / "state.db").mkdir()
    with pytest.raises(StoreError, match="cannot open"):
        Store(tmp_path / "state.db")


def test_a_failed_write_is_told(path: Path) -> None:
    store = Store(path)
    with store._db:
        store._db.execute("DROP TABLE attachments")
    with pytest.raises(StoreError, match=rf"cannot write {path}: no such table"):
        store.write_attachment(KEY, ATTACHED)
    with pytest.raises(StoreError, match=rf"cannot read {path}: no such table"):
        store.attachments()
    store.close()


def test_a_database_that_another_process_writes_is_waited_for(path: Path) -> None:
    store = Store(path)
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    timer = threading.Timer(0.2, other.execute, ["COMMIT"])
    timer.start()
    store.write_takeover(TAKEN)
    timer.join()
    assert store.takeover() == TAKEN
    other.close()
    store.close()


OPENER = """
import os, sys
from pathlib import Path
from terwayd.store import Store
print("ready", flush=True)
os.read(int(sys.argv[2]), 1)  # all at the same moment: when the pipe closes
Store(Path(sys.argv[1]))
"""


def test_several_open_a_new_one_at_once(path: Path) -> None:
    reading, writing = os.pipe()
    started = [
        subprocess.Popen(
            [sys.executable, "-c", OPENER, str(path), str(reading)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=Path(__file__).parents[2],
            pass_fds=[reading],
            text=True,
        )
        for _ in range(4)
    ]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    os.close(writing)
    assert [process.communicate()[0] for process in started] == [""] * 4
    os.close(reading)
    assert not list(path.parent.glob("*broken*"))


def test_several_threads(path: Path) -> None:
    store, failures = Store(path), []

    def write(number: int) -> None:
        try:
            for turn in range(20):
                store.write_attachment(("terway", f"{number}-{turn}", "eth0"), ATTACHED)
                store.write_takeover(TAKEN)
                assert store.takeover() == TAKEN
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(store.attachments()) == 80
    store.close()
