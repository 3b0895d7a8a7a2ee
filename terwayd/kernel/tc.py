"""Traffic control: what is made of the frames that come in by an interface.

Filters of classic BPF at its ingress hook, each of a priority of its own; the kernel takes them away with the interface.
A TrafficControl belongs to the network namespace in which it was made, and is used by one thread at a time.
"""

from __future__ import annotations

import errno
import socket
import struct
from typing import Final, Self

from terwayd.kernel.attributes import attribute, by_type, number, text
from terwayd.kernel.requests import CREATE, DUMP, EXCLUSIVE, REPLACE, Request, Requests

GROUP: Final = 0x8  # RTMGRP_TC of linux/rtnetlink.h

# linux/rtnetlink.h, pkt_sched.h and pkt_cls.h
_NEWQDISC, _GETQDISC, _NEWTFILTER, _DELTFILTER, _GETTFILTER = 36, 38, 44, 45, 46
_MESSAGE: Final = struct.Struct("=BxxxiIII")  # struct tcmsg: family, index, handle, parent, info
_CLSACT, _CLSACT_HANDLE, _INGRESS = 0xFFFFFFF1, 0xFFFF0000, 0xFFFFFFF2
_HANDLE: Final = 1
_ALL: Final = socket.htons(3)  # ETH_P_ALL
_KIND, _OPTIONS, _OPS_LEN, _OPS, _FLAGS = 1, 2, 4, 5, 8
_STATS2, _STATS_QUEUE, _QUEUE = 7, 3, struct.Struct("=III")  # struct gnet_stats_queue up to `drops`
_VERDICTS: Final = 1  # TCA_BPF_FLAG_ACT_DIRECT: what the program returns is what is done
_NO_HOOK: Final = (errno.EINVAL, errno.ENOENT, errno.ENODEV)


class TrafficControl:
    """A socket for it; `port_id` is what notes of its changes carry."""

    def __init__(self) -> None:
        self._requests = Requests()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def port_id(self) -> int:
        return self._requests.port_id

    def close(self) -> None:
        self._requests.close()

    def hook(self, name: str, index: int) -> None:
        """Have the hook at an interface, which may be there already."""
        self._requests.send(_hook(name, index))

    def put(self, name: str, index: int, programs: dict[int, bytes]) -> None:
        """Have these filters, by priority, at an interface; each is exchanged at once for the one that is there.

        One that only accepts is of the form that returns 0 for what it leaves to the next; the last one's results are
        the verdicts of linux/pkt_cls.h.
        """
        last = max(programs)
        self._requests.send(
            _hook(name, index),
            *(_filter(name, index, each, programs[each], verdicts=each == last) for each in sorted(programs)),
        )

    def take(self, name: str, index: int, priorities: tuple[int, ...]) -> None:
        """Take filters away that may be gone already, as may the interface."""
        self._requests.send(*(_removal(name, index, priority) for priority in priorities))

    def programs(self, index: int) -> dict[int, bytes]:
        """The filters of classic BPF that an interface has, by priority."""
        asked = Request(
            "tc filter show", _GETTFILTER, DUMP, _MESSAGE.pack(0, index, 0, _INGRESS, 0), _NO_HOOK
        )
        found = {}
        for body in self._requests.dump(asked):
            *_, info = _MESSAGE.unpack_from(body)
            known = by_type(body[_MESSAGE.size :])
            if known.get(_KIND) == b"bpf\0" and _OPS in (options := by_type(known.get(_OPTIONS, b""))):
                found[info >> 16] = options[_OPS]
        return found

    def drops(self) -> dict[int, int]:
        """How many frames were dropped at each hook of the namespace since it is there, by the interface's index."""
        asked = Request("tc -s qdisc show", _GETQDISC, DUMP, _MESSAGE.pack(0, 0, 0, 0, 0))
        found = {}
        for body in self._requests.dump(asked):
            _, index, *_ = _MESSAGE.unpack_from(body)
            known = by_type(body[_MESSAGE.size :])
            stats = by_type(known.get(_STATS2, b""))
            if known.get(_KIND) == b"clsact\0" and _STATS_QUEUE in stats:
                *_, found[index] = _QUEUE.unpack_from(stats[_STATS_QUEUE])
        return found


def _hook(name: str, index: int) -> Request:
    body = _MESSAGE.pack(0, index, _CLSACT_HANDLE, _CLSACT, 0) + text(_KIND, "clsact")
    return Request(f"tc qdisc add dev {name} clsact", _NEWQDISC, CREATE | EXCLUSIVE, body, (errno.EEXIST,))


def _filter(name: str, index: int, priority: int, program: bytes, *, verdicts: bool) -> Request:
    options = attribute(_OPS_LEN, struct.pack("=H", len(program) // 8)) + attribute(_OPS, program)
    options += number(_FLAGS, _VERDICTS) if verdicts else b""
    body = _MESSAGE.pack(0, index, _HANDLE, _INGRESS, priority << 16 | _ALL)
    body += text(_KIND, "bpf") + attribute(_OPTIONS, options)
    what = f"tc filter replace dev {name} ingress prio {priority} bpf"
    return Request(what, _NEWTFILTER, CREATE | REPLACE, body)


def _removal(name: str, index: int, priority: int) -> Request:
    body = _MESSAGE.pack(0, index, 0, _INGRESS, priority << 16 | _ALL)
    return Request(f"tc filter del dev {name} ingress prio {priority}", _DELTFILTER, 0, body, _NO_HOOK)
