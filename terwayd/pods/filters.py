"""The filter at each pod's port, kept as it shall be.  Blocking, for one thread at a time."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Iterable, Mapping

from terwayd.errors import KernelError
from terwayd.kernel.tc import TrafficControl
from terwayd.pods.sending import FIRST, REST, SECOND, Port, programs_of
from terwayd.pods.upkeep import Trouble

log = logging.getLogger(__name__)


class Filters:
    """What was put where, of the ports that it was told of."""

    def __init__(self) -> None:
        self._control = TrafficControl()
        # By the port's name: its index, its programs.
        self._held: dict[str, tuple[int, dict[int, bytes]]] = {}
        self._refused: dict[str, KernelError] = {}

    @property
    def port_id(self) -> int:
        """What the kernel's notes of these changes carry."""
        return self._control.port_id

    @property
    def trouble(self) -> tuple[Trouble, ...]:
        if not (refused := dict(self._refused)):
            return ()
        message = f"what the pods behind {', '.join(sorted(refused))} send is not looked at: {next(iter(refused.values()))}"
        return (Trouble("rules", "error", message, "terwayctl doctor kernel"),)

    def hold(self, ports: Iterable[Port]) -> None:
        """Have each hold to what it says; of a pod it takes all of its ports, and those that are not there yet wait."""
        ports = [port for port in ports if port.index]
        wanted = programs_of(ports)
        for port in ports:
            if self._held.get(port.name) != (port.index, wanted[port.name]):
                self._put(port.name, port.index, wanted[port.name])

    def forget(self, name: str) -> None:
        """A port that is gone, and its filter with it."""
        self._held.pop(name, None)
        self._refused.pop(name, None)

    def mend(self) -> list[str]:
        """The ports whose filter was not what it shall be, and is again."""
        lost = [name for name in self._held if name in self._refused or not self._stands(name)]
        for name in lost:
            self._put(name, *self._held[name])
        return [name for name in lost if name not in self._refused]

    def dropped(self, drops: Mapping[int, int]) -> dict[str, int]:
        """How many frames of its pod each port with a filter has dropped.  In any thread."""
        held = dict(self._held)
        return {
            name: drops.get(index, 0)
            for name, (index, programs) in held.items()
            if programs and name not in self._refused
        }

    def close(self) -> None:
        self._control.close()

    def _stands(self, name: str) -> bool:
        index, programs = self._held[name]
        if not programs or not _is_there(name, index):
            return True
        there = self._control.programs(index)
        return all(there.get(priority) == code for priority, code in programs.items())

    def _put(self, name: str, index: int, programs: dict[int, bytes]) -> None:
        self._held[name] = (index, programs)
        before = self._refused.pop(name, None)
        try:
            if programs:
                self._control.put(name, index, programs)
            elif self._control.programs(index).get(SECOND) == REST:  # one of ours, and nobody else's
                self._control.take(name, index, (SECOND, FIRST))
        except KernelError as error:
            if _is_there(name, index):
                self._refused[name] = error
                if str(error) != str(before):
                    log.error("%s", error)


def _is_there(name: str, index: int) -> bool:
    with contextlib.suppress(OSError):
        return socket.if_indextoname(index) == name
    return False
