"""The pods' rows in the state database: what the next run of the daemon knows of them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

from terwayd import codec
from terwayd.clock import epoch
from terwayd.dhcp.lease import Lease
from terwayd.errors import StoreError
from terwayd.pods.identity import Attachment, Key
from terwayd.store import AttachmentRecord, Store

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Row:
    """A pod as it was written; `lease` by the clock of now, None where its ADD did not end."""

    known: Attachment
    lease: Lease | None
    this_boot: bool


class Rows:
    """One row for each pod, from the begin of its ADD to the end of its DEL."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def read(self) -> Iterator[Row]:
        """All that can be read; what cannot is told and left out."""
        now = epoch()
        for record in self._store.attachments():
            try:
                known = codec.decode(Attachment, record.pod)
                lease = (
                    Lease.from_dict(record.lease).shifted(now.since(record.epoch)) if record.lease else None
                )
            except (ValueError, TypeError) as error:
                log.error("%s: the row of a pod cannot be read and is left out: %s", self._store.path, error)
                continue
            yield Row(known, lease, record.epoch.boot_id == now.boot_id)

    def write(self, known: Attachment, lease: Lease | None) -> None:
        record = AttachmentRecord(codec.encode(known), lease.to_dict() if lease else None, epoch())
        self._store.write_attachment(known.key, record)

    def note(self, known: Attachment, lease: Lease) -> None:
        """Write what has become of the lease; the pod goes on with it also where that fails."""
        try:
            self.write(known, lease)
        except StoreError as error:
            log.error("%s; %s would go on with older times after a restart", error, known)

    def strike(self, key: Key) -> None:
        """Take the row out; one that must stay, on a full disk, has no pod, as the next start finds."""
        try:
            self._store.delete_attachment(key)
        except StoreError as error:
            log.error("%s; the row of a pod that is gone stays until the next start", error)
