"""The takeover's journal: what was planned for this boot, how far that is, and which dead man watches over it.

It holds the whole plan, and is on the disk before the first step.  What an earlier boot did is gone with it.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from terwayd import codec
from terwayd.clock import boottime, epoch
from terwayd.host.plan import Plan
from terwayd.store import Store, TakeoverRecord

log = logging.getLogger(__name__)

_STANDING = ("up", "pending")


class Journal:
    """One row of the store; keeps nothing in memory."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def empty(self) -> bool:
        """Whether nothing at all is written, of an earlier boot neither."""
        return self._store.takeover() is None

    def planned(self) -> Plan | None:
        """What was begun in this boot, however far it is; None when the host is its own."""
        record = self._record()
        return codec.decode(Plan, record.plan) if record is not None else None

    def standing(self) -> Plan | None:
        """The plan in force in this boot."""
        record = self._record()
        return codec.decode(Plan, record.plan) if record is not None and record.state in _STANDING else None

    def begin(self, plan: Plan, state: str, watcher: str) -> None:
        """From now on `plan` is "applying" or "undoing", and the dead man `watcher` waits for its end."""
        self._store.write_takeover(
            TakeoverRecord(epoch().boot_id, state, codec.encode(plan), dead_man=watcher)
        )

    def stands(self, plan: Plan, confirm_within: float | None = None) -> None:
        """It is done: for good, or to be undone unless it is confirmed within so many seconds."""
        record = self._record() or TakeoverRecord(epoch().boot_id, "up", {})
        deadline = None if confirm_within is None else boottime() + confirm_within
        state = "up" if deadline is None else "pending"
        self._store.write_takeover(replace(record, state=state, plan=codec.encode(plan), deadline=deadline))

    def revise(self, plan: Plan) -> None:
        """What stands is `plan` by now."""
        record = self._record()
        assert record is not None
        self._store.write_takeover(replace(record, plan=codec.encode(plan)))

    def clear(self) -> None:
        """The host is its own."""
        self._store.clear_takeover()

    def unconfirmed(self) -> float | None:
        """Seconds until an unconfirmed takeover is undone, negative when that is due; None: nothing waits."""
        record = self._record()
        if record is None or record.state != "pending":
            return None
        return (record.deadline or 0.0) - boottime()

    def confirm(self) -> bool:
        """Keep a takeover that waits for confirmation; False when none does."""
        record = self._record()
        if record is None or self.unconfirmed() is None:
            return False
        self._store.write_takeover(replace(record, state="up", deadline=None))
        return True

    def abandoned(self, watcher: str) -> Plan | None:
        """What the dead man `watcher` has to undo: nobody finished or confirmed it.  None: nothing of his."""
        record = self._record()
        if record is None or record.state == "up" or record.dead_man != watcher:
            return None
        if record.state == "pending" and (record.deadline or 0.0) > boottime():
            return None
        return codec.decode(Plan, record.plan)

    def cut_short(self) -> Plan | None:
        """What a crash left half done.  An earlier boot's, and what this version cannot read, is forgotten."""
        record = self._store.takeover()
        if record is None:
            return None
        if record.boot_id != epoch().boot_id or not _readable(record):
            self._store.clear_takeover()
            return None
        if record.state in _STANDING:
            return None
        return codec.decode(Plan, record.plan)

    def _record(self) -> TakeoverRecord | None:
        record = self._store.takeover()
        return record if record is not None and record.boot_id == epoch().boot_id else None


def _readable(record: TakeoverRecord) -> bool:
    """Whether this terwayd understands the plan; that of another version may have other steps."""
    try:
        codec.decode(Plan, record.plan)
    except (ValueError, TypeError) as error:
        log.error("the journal's plan cannot be read, and is made anew from the kernel: %s", error)
        return False
    return True
