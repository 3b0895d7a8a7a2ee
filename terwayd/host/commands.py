"""The steps by which a NIC's manager is told: files, commands, DHCP clients.  They are steps as in `steps`."""

from __future__ import annotations

import shlex
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WriteFile:
    """A file below /run, readable by all, with its directories; gone by itself at the next boot."""

    path: str
    text: str

    def __str__(self) -> str:
        written = self.text.replace("\\", r"\\").replace("%", "%%").replace("\n", r"\n")
        return f"printf {shlex.quote(written)} > {self.path}"

    def inverse(self) -> RemoveFile:
        return RemoveFile(self.path, self.text)


@dataclass(frozen=True, slots=True)
class RemoveFile:
    path: str
    before: str

    def __str__(self) -> str:
        return f"rm -f {self.path}"

    def inverse(self) -> WriteFile:
        return WriteFile(self.path, self.before)


@dataclass(frozen=True, slots=True)
class Run:
    """A command of the NIC's manager, such as to read its files again; `back` is the one that undoes it."""

    command: tuple[str, ...]
    back: tuple[str, ...] = ()

    def __str__(self) -> str:
        return shlex.join(self.command)

    def inverse(self) -> Run | None:
        return Run(self.back, self.command) if self.back and self.command else None


@dataclass(frozen=True, slots=True)
class StopClient:
    """The DHCP client `name` on `dev` is ended on the spot: it sends no RELEASE, and its script does not run.

    `back` starts it again; a client that runs by then is left alone.
    """

    name: str
    dev: str
    back: tuple[str, ...]

    def __str__(self) -> str:
        return f"pkill -KILL -f '^(/s?bin/)?{self.name}\\b.* {self.dev}\\b'"

    def inverse(self) -> StartClient:
        return StartClient(self.name, self.dev, self.back)


@dataclass(frozen=True, slots=True)
class StartClient:
    name: str
    dev: str
    command: tuple[str, ...]

    def __str__(self) -> str:
        return shlex.join(self.command)

    def inverse(self) -> StopClient:
        return StopClient(self.name, self.dev, self.command)
