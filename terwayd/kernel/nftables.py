"""nftables over its own netlink: elements of sets in one transaction, and what is there.

Whole rulesets are text, for the `nft` command.  A Nftables belongs to the network namespace in which it was
made, and is used by one thread at a time.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from terwayd.errors import KernelError
from terwayd.kernel.attributes import NESTED, attribute, by_type, each, message, messages, text

FAMILIES: Final = {"inet": 1, "ip": 2, "netdev": 5, "bridge": 7, "ip6": 10}
NETLINK_NETFILTER: Final = 12
GROUP: Final = 1 << 6  # NFNLGRP_NFTABLES

# linux/netfilter/nf_tables.h, nfnetlink.h
_NFTABLES: Final = 10
_BEGIN, _END = 0x10, 0x11
_DELTABLE, _GETCHAIN, _GETRULE = 2, 4, 7
_NEWSETELEM, _GETSETELEM, _DELSETELEM, _GETGEN = 12, 13, 14, 16
_REQUEST, _ACK, _DUMP, _CREATE = 0x1, 0x4, 0x300, 0x400
_ERROR, _DONE = 2, 3
_FORWARD, _DROP = 2, 0

_PATIENCE = 20.0  # seconds; somebody else's transaction may have thousands of rules
_MAX_ELEMENTS = 500  # of one message: an attribute has 64 KiB

Keys = Mapping[str, set[bytes]]


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain, and whether it drops what none of its rules accepts."""

    family: str
    table: str
    name: str
    drops: bool


class Nftables:
    """A socket to nf_tables."""

    def __init__(self) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER
        )
        self._socket.settimeout(_PATIENCE)
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    @staticmethod
    def load(script: str) -> None:
        """Do what `script` says, in one transaction."""
        try:
            done = subprocess.run(
                ["nft", "-f", "-"], input=script, capture_output=True, text=True, check=False
            )
        except OSError as error:
            raise KernelError(
                f"nft: {error.strerror}", error.errno or 0, hint="apt install nftables"
            ) from None
        if done.returncode != 0:
            said = " ".join(done.stderr.split())[:300]
            raise KernelError(f"nft refuses the rules: {said}", errno.EINVAL, hint="nft list ruleset")

    def change(self, family: str, table: str, removed: Keys, added: Keys) -> None:
        """Take elements out of sets and put others in, all of it or nothing."""
        changes = [
            (kind, flags, text(1, table) + text(2, name) + attribute(3 | NESTED, _elements(part)))
            for kind, flags, sets in ((_DELSETELEM, 0, removed), (_NEWSETELEM, _CREATE, added))
            for name, keys in sets.items()
            for part in _parts(sorted(keys))
        ]
        if changes:
            self._transaction(family, changes, f"elements of {family} {table}")

    def delete_table(self, family: str, table: str) -> None:
        """Delete a table, which may be gone already."""
        try:
            self._transaction(family, [(_DELTABLE, 0, text(1, table))], f"nft delete table {family} {table}")
        except KernelError as error:
            if error.errno != errno.ENOENT:
                raise

    def generation(self) -> int:
        """The number of the ruleset: one more after each transaction of anybody."""
        return int.from_bytes(self._ask(_GETGEN, "", b"")[0][1], "big")

    def rules(self, family: str, table: str) -> tuple[bytes, ...]:
        """The handles of a table's rules: others after somebody wrote them anew."""
        found = self._ask(_GETRULE, family, text(1, table), _DUMP)
        return tuple(rule[3] for rule in found if _text(rule[1]) == table)

    def chains(self, family: str, table: str) -> set[str]:
        """The names of a table's chains."""
        found = self._ask(_GETCHAIN, family, b"", _DUMP)
        return {_text(chain[3]) for chain in found if _text(chain[1]) == table}

    def keys(self, family: str, table: str, name: str) -> set[bytes]:
        """The elements of a set."""
        found = self._ask(_GETSETELEM, family, text(1, table) + text(2, name), _DUMP)
        elements = [element for message in found for _, element in each(message.get(3, b""))]
        return {by_type(by_type(element)[1])[1] for element in elements}

    def forwarding(self) -> list[Chain]:
        """The chains for what is forwarded, iptables' among them."""
        found = []
        for family in ("ip", "ip6", "inet"):
            for chain in self._ask(_GETCHAIN, family, b"", _DUMP):
                hook = by_type(chain[4]) if 4 in chain else {}
                if hook and int.from_bytes(hook[1], "big") == _FORWARD and _text(chain[7]) == "filter":
                    drops = int.from_bytes(chain.get(5, b"\1"), "big") == _DROP
                    found.append(Chain(family, _text(chain[1]), _text(chain[3]), drops))
        return found

    def _transaction(self, family: str, changes: list[tuple[int, int, bytes]], what: str) -> None:
        data = self._message(_BEGIN, "", _REQUEST, b"", _NFTABLES)
        begin = self._sequence
        for number, (kind, flags, attributes) in enumerate(changes, 1):
            asked = _ACK if number == len(changes) else 0
            data += self._message(kind | _NFTABLES << 8, family, _REQUEST | asked | flags, attributes)
        last = self._sequence
        self._socket.send(data + self._message(_END, "", _REQUEST, b"", _NFTABLES))
        refused = 0
        while True:
            for kind, sequence, payload in self._receive():
                if kind == _ERROR and sequence >= begin:
                    refused = refused or _errno(payload)
                    if sequence in {begin, last}:  # the whole of it is refused by its begin, done by its last
                        if refused:
                            raise KernelError(f"{what}: {os.strerror(refused)}", refused)
                        return

    def _ask(self, kind: int, family: str, attributes: bytes, flags: int = 0) -> list[dict[int, bytes]]:
        """The answers' attributes; none where the table is not there."""
        self._socket.send(self._message(kind | _NFTABLES << 8, family, _REQUEST | flags, attributes))
        asked = self._sequence
        found: list[dict[int, bytes]] = []
        while True:
            for answer, sequence, payload in self._receive():
                if sequence != asked:
                    continue
                if answer == _ERROR and _errno(payload) != errno.ENOENT:
                    raise KernelError(f"nftables: {os.strerror(_errno(payload))}", _errno(payload))
                if answer in {_ERROR, _DONE}:
                    return found
                found.append(by_type(payload[4:]))
                if not flags & _DUMP:
                    return found

    def _message(self, kind: int, family: str, flags: int, attributes: bytes, resource: int = 0) -> bytes:
        self._sequence += 1
        head = struct.pack("!BBH", FAMILIES.get(family, 0), 0, resource)
        return message(kind, flags, self._sequence, head + attributes)

    def _receive(self) -> Iterator[tuple[int, int, bytes]]:
        try:
            data = self._socket.recv(1 << 18)
        except OSError as error:
            raise KernelError(f"nftables does not answer: {error}", error.errno or errno.ETIMEDOUT) from None
        return messages(data)


def _errno(payload: bytes) -> int:
    return -int.from_bytes(payload[:4], sys.byteorder, signed=True)


def _elements(keys: Iterable[bytes]) -> bytes:
    """Each an element of the list (1), its key (1), and that one's value (1)."""
    return b"".join(attribute(1 | NESTED, attribute(1 | NESTED, attribute(1, key))) for key in keys)


def _parts(keys: list[bytes]) -> Iterator[list[bytes]]:
    for start in range(0, len(keys), _MAX_ELEMENTS):
        yield keys[start : start + _MAX_ELEMENTS]


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode()
