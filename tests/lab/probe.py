"""A continuous ping between two places, to count what is lost while something happens."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.lab.errors import LabError


@dataclass(frozen=True, slots=True)
class Loss:
    """What a probe saw.  `lost` are sequence numbers; `slowest` is the longest round trip in seconds."""

    sent: int
    lost: list[int]
    duplicates: int
    slowest: float
    errors: dict[str, int] = field(default_factory=dict)
    overrun: bool = False
    """Whether the kernel that all machines share has dropped packets, of whomever, for being too busy."""

    @property
    def none(self) -> bool:
        """Whether nothing was lost but what this machine, with all its machines on it, had no time for."""
        return self.sent > 0 and (not self.lost or self.overrun)

    @property
    def received(self) -> int:
        return self.sent - len(self.lost)

    @property
    def longest_gap(self) -> int:
        """The most requests lost in a row."""
        longest = run = 0
        previous = -2
        for number in self.lost:
            run = run + 1 if number == previous + 1 else 1
            longest, previous = max(longest, run), number
        return longest

    def __str__(self) -> str:
        return f"{len(self.lost)} of {self.sent} lost"


def overruns() -> int:
    """The packets that the processors of this machine had no time for, in all namespaces, since it started."""
    return sum(int(line.split()[1], 16) for line in Path("/proc/net/softnet_stat").read_text().splitlines())


class Probe:
    """A running ping; `stop()` ends it.  Also a context manager, whose result is then in `.loss`."""

    def __init__(self, process: subprocess.Popen[Any], name: str) -> None:
        self.name = name
        self.loss: Loss | None = None
        self._process = process
        self._overruns = overruns()
        assert process.stdout is not None
        line = process.stdout.readline().decode()
        if line.strip() != "started":
            line += process.stdout.read().decode(errors="replace")
            self.close()
            raise LabError(f"probe {name} does not start: {line.strip()}")

    def stop(self) -> Loss:
        """End the ping and wait for its last replies."""
        if self.loss is None:
            output, _ = self._process.communicate(timeout=10)
            try:
                self.loss = Loss(**json.loads(output), overrun=overruns() != self._overruns)
            except (ValueError, TypeError) as error:
                raise LabError(
                    f"probe {self.name} gave no result: {output.decode(errors='replace')}"
                ) from error
        return self.loss

    def close(self) -> None:
        """End the ping without asking for its result."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream and not stream.closed:
                stream.close()
        self._process.wait()

    def __enter__(self) -> Probe:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.stop()
        else:
            self.close()
