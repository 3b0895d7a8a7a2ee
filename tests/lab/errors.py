"""What can go wrong in the lab, and how it waits: on a condition with a deadline, never for a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class LabError(Exception):
    """The lab could not be built or something in it did not happen in time."""


class CommandError(LabError):
    """A command in a machine ended with another exit code than 0; carries all it said."""

    def __init__(self, where: str, command: str, returncode: int, stdout: str, stderr: str) -> None:
        super().__init__(f"{where}: `{command}` ended with {returncode}\n{stdout}{stderr}".rstrip())
        self.returncode = returncode
        self.stdout = stdout
        self.stderr = stderr


def eventually(condition: Callable[[], T], timeout: float = 5.0, what: str = "", interval: float = 0.02) -> T:
    """Call `condition` until it returns something true, and return that.

    After `timeout` seconds raise LabError with `what` and the last value or AssertionError seen.
    An AssertionError or LabError raised by the condition counts as "not yet".
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            seen: object = (value := condition())
            if value:
                return value
        except (AssertionError, LabError) as error:
            seen = error
        if time.monotonic() >= deadline:
            name = what or getattr(condition, "__name__", "condition")
            raise LabError(f"not within {timeout:g} s: {name}; last seen: {seen!r}")
        time.sleep(interval)
