"""What must outlive the process: the journal of the takeover, and the pods with their leases.

One SQLite file, write-ahead log.  The journal is written through to the disk before anything is
changed on the host; a pod's row needs to survive the process, and the disk gets it in its own time.
A file that is no database is set aside, never deleted; one of a newer terwayd is left alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from terwayd.clock import Epoch
from terwayd.errors import NewerState, StoreError

log = logging.getLogger(__name__)

DEFAULT_PATH = Path("/var/lib/terwayd/state.db")
_VERSION = 1
_TABLES = (
    """CREATE TABLE takeover (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        boot_id TEXT NOT NULL,
        state TEXT NOT NULL,
        plan TEXT NOT NULL,
        deadline REAL,
        dead_man TEXT NOT NULL
    ) STRICT""",
    """CREATE TABLE attachments (
        network TEXT NOT NULL,
        container_id TEXT NOT NULL,
        ifname TEXT NOT NULL,
        pod TEXT NOT NULL,
        lease TEXT,
        boot_id TEXT NOT NULL,
        clock_offset REAL NOT NULL,
        PRIMARY KEY (network, container_id, ifname)
    ) STRICT""",
)


@dataclass(frozen=True, slots=True)
class TakeoverRecord:
    """What was planned for the host; `state` is "applying", "pending", "up" or "undoing".

    A pending takeover waits for confirmation until `deadline`, in seconds of boot time.  `dead_man`
    is the name of the one that watches over it.
    """

    boot_id: str
    state: str
    plan: dict[str, Any]
    deadline: float | None = None
    dead_man: str = ""


@dataclass(frozen=True, slots=True)
class AttachmentRecord:
    """A pod's row: both parts as JSON values; the lease's times are of `epoch`."""

    pod: dict[str, Any]
    lease: dict[str, Any] | None
    epoch: Epoch


class Store:
    """The state database; may be used from several threads, one call at a time."""

    def __init__(self, path: Path = DEFAULT_PATH) -> None:
        self.path = path
        self.set_aside: Path | None = None
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _alone(path.parent):
                self._db = self._open_or_replace()
        except sqlite3.OperationalError as error:
            raise self._failed("open", error) from None
        except OSError as error:
            raise StoreError(
                f"cannot open {path}: {error.strerror}",
                hint=f"findmnt -T {path.parent}; ls -ld {path.parent}",
            ) from None

    def _open_or_replace(self) -> sqlite3.Connection:
        try:
            return self._open()
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            self.set_aside = self._move_aside()
            log.error("%s cannot be read (%s): it is set aside as %s", self.path, error, self.set_aside)
            return self._open()

    def _open(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        try:
            self.path.chmod(0o600)
            db.execute("PRAGMA journal_mode = WAL")
            if self._version(db) == 0:
                _create(db)
            _check(db)
        except BaseException:
            db.close()
            raise
        return db

    def _version(self, db: sqlite3.Connection) -> int:
        version: int = db.execute("PRAGMA user_version").fetchone()[0]
        if version > _VERSION:
            raise NewerState(
                f"{self.path} was written by a newer terwayd (format {version}, this one knows {_VERSION})",
                hint=f"install that version again, or move {self.path} away: pods get new leases",
            )
        return version

    def _move_aside(self) -> Path:
        broken = next(p for n in range(1000) if not (p := self.path.with_suffix(f".broken-{n}")).exists())
        for suffix in ("", "-wal", "-shm"):
            part = self.path.with_name(self.path.name + suffix)
            with contextlib.suppress(FileNotFoundError):
                part.rename(broken.with_name(broken.name + suffix))
        return broken

    def _failed(self, doing: str, error: Exception) -> StoreError:
        return StoreError(
            f"cannot {doing} {self.path}: {error}", hint=f"df {self.path.parent}; ls -l {self.path}"
        )

    def _execute(self, sql: str, values: tuple[Any, ...] = (), *, durable: bool = False) -> list[Any]:
        """Run one statement; with `durable` it is on the disk when this returns."""
        with self._lock:
            try:
                self._db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
                return self._db.execute(sql, values).fetchall()
            except sqlite3.Error as error:
                raise self._failed("read" if sql.startswith("SELECT") else "write", error) from None

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def takeover(self) -> TakeoverRecord | None:
        rows = self._execute("SELECT boot_id, state, plan, deadline, dead_man FROM takeover")
        if not rows:
            return None
        boot_id, state, plan, deadline, dead_man = rows[0]
        return TakeoverRecord(boot_id, state, json.loads(plan), deadline, dead_man)

    def write_takeover(self, record: TakeoverRecord) -> None:
        """On the disk when this returns."""
        values = (record.boot_id, record.state, json.dumps(record.plan), record.deadline, record.dead_man)
        self._execute("INSERT OR REPLACE INTO takeover VALUES (1, ?, ?, ?, ?, ?)", values, durable=True)

    def clear_takeover(self) -> None:
        self._execute("DELETE FROM takeover", durable=True)

    def attachments(self) -> list[AttachmentRecord]:
        rows = self._execute("SELECT pod, lease, boot_id, clock_offset FROM attachments")
        return [
            AttachmentRecord(json.loads(pod), json.loads(lease) if lease else None, Epoch(boot_id, offset))
            for pod, lease, boot_id, offset in rows
        ]

    def write_attachment(self, key: tuple[str, str, str], record: AttachmentRecord) -> None:
        lease = json.dumps(record.lease) if record.lease is not None else None
        values = (*key, json.dumps(record.pod), lease, record.epoch.boot_id, record.epoch.offset)
        self._execute("INSERT OR REPLACE INTO attachments VALUES (?, ?, ?, ?, ?, ?, ?)", values)

    def delete_attachment(self, key: tuple[str, str, str]) -> None:
        self._execute("DELETE FROM attachments WHERE network = ? AND container_id = ? AND ifname = ?", key)


@contextlib.contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """One process at a time: SQLite does not wait for another one that makes the same file."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _create(db: sqlite3.Connection) -> None:
    db.execute("BEGIN IMMEDIATE")
    for statement in (*_TABLES, f"PRAGMA user_version = {_VERSION}"):
        db.execute(statement)
    db.execute("COMMIT")


def _check(db: sqlite3.Connection) -> None:
    """Raise DatabaseError unless all of it can be read."""
    found = db.execute("PRAGMA quick_check").fetchone()[0]
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    if found != "ok" or not {"takeover", "attachments"} <= tables:
        raise sqlite3.DatabaseError(found)
    try:
        for (text,) in db.execute("SELECT plan FROM takeover UNION ALL SELECT pod FROM attachments"):
            json.loads(text)
        for (text,) in db.execute("SELECT lease FROM attachments WHERE lease IS NOT NULL"):
            json.loads(text)
    except ValueError as error:
        raise sqlite3.DatabaseError(str(error)) from None
