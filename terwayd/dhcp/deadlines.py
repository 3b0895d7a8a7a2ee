"""When each of many is due next: one heap, in which what was moved or forgotten is left until its time comes."""

from __future__ import annotations

import heapq
import math
from collections.abc import Hashable, Iterator


class Deadlines:
    """A time for each key, in seconds of the caller's clock."""

    def __init__(self) -> None:
        self._at: dict[Hashable, float] = {}
        self._heap: list[tuple[float, int, Hashable]] = []
        self._pushes = 0  # of two that are due at once the earlier set comes first; keys are never compared

    def __len__(self) -> int:
        """How much is held, with what is left of moved and forgotten ones."""
        return len(self._heap)

    def set(self, key: Hashable, at: float) -> bool:
        """`key` is due at `at` and not at the time set before, `math.inf` for never; False: so it was already."""
        if at == self._at.get(key, math.inf):
            return False
        if at == math.inf:
            del self._at[key]
        else:
            self._at[key] = at
            self._pushes += 1
            heapq.heappush(self._heap, (at, self._pushes, key))
        return True

    def forget(self, key: Hashable) -> None:
        """`key` is never due; what is left of such ones is at most what there is besides, and some."""
        self._at.pop(key, None)
        if len(self._heap) > 2 * len(self._at) + 64:
            self._heap = [item for item in self._heap if self._at.get(item[2]) == item[0]]
            heapq.heapify(self._heap)

    def due(self, now: float) -> Iterator[Hashable]:
        """Each key whose time has come, once; what is set meanwhile and due as well is among them."""
        while self._heap and self._heap[0][0] <= now:
            at, _, key = heapq.heappop(self._heap)
            if self._at.get(key) == at:
                del self._at[key]
                yield key

    def nearest(self) -> float:
        """The time of what is due first, `math.inf` when nothing is."""
        while self._heap and self._at.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else math.inf
