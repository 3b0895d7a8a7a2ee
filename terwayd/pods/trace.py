"""Where the time of an ADD goes: marks on the way, shown by the daemon's --debug."""

from __future__ import annotations

import time


class Trace:
    """Marks since it was made; each says what ended there."""

    def __init__(self) -> None:
        self._marks = [("", time.perf_counter())]

    def mark(self, what: str) -> None:
        self._marks.append((what, time.perf_counter()))

    def __str__(self) -> str:
        """`veth 0.61, lease 1.20, all 2.50 ms`: each the time since the mark before it."""
        parts = [
            f"{what} {(at - before) * 1000:.2f}"
            for (_, before), (what, at) in zip(self._marks, self._marks[1:], strict=False)
        ]
        return ", ".join([*parts, f"all {(self._marks[-1][1] - self._marks[0][1]) * 1000:.2f} ms"])
