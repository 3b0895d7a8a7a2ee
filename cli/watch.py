"""terwayctl status --watch and --wait: the same status, again and again."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator
from typing import Any

from . import pods, status
from .client import Client
from .errors import DaemonUnavailable, TerwayError, UsageError, exit_status
from .render import Page, Screen, clean, on_terminal, progress

INTERVAL = 1.0  # seconds between two looks
UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def seconds(text: str, option: str) -> float:
    """A time as it is typed: 90, 90s, 2m."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(s|m|min|h|)", text.strip())
    if match is None or not 0 < float(match[1]) * UNITS[match[2]] <= 86400:
        raise UsageError(f"{option} {text}: not a time of up to a day", hint=f"{option} 60s")
    return float(match[1]) * UNITS[match[2]]


def until_well(client: Client, patience: float, pod: str = "") -> None:
    """Return as soon as all is well, or after `patience` seconds: the status tells what was not."""
    deadline = time.monotonic() + patience
    with progress(f"waiting until {pod or 'terwayd'} is ready"):
        while not _well(client, pod) and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, 0.2))


def _well(client: Client, pod: str) -> bool:
    try:
        return status.verdict(status.ask(client, pod), pod) == 0
    except TerwayError as error:
        if exit_status(error) == 6:
            raise
        return False


def run(client: Client, *, pod: str = "", as_json: bool = False) -> int:
    """Show the status until interrupted: a page on a terminal, a line for each change elsewhere."""
    code = 0
    try:
        if on_terminal(sys.stdout) and not as_json:
            with Screen() as screen:
                while True:
                    seen, code = _look(client, pod)
                    screen.show(_page(seen, pod))
                    time.sleep(INTERVAL)
        before: list[str] | None = None
        while True:
            seen, code = _look(client, pod)
            told = _facts(seen, pod)
            if told != before:
                _tell(seen, told, before or [], as_json=as_json)
            before = told
            time.sleep(INTERVAL)
    except KeyboardInterrupt:  # which is how one stops watching
        return code


def _look(client: Client, pod: str) -> tuple[dict[str, Any] | TerwayError, int]:
    """The status now, or why there is none: a daemon that restarts comes back."""
    try:
        seen = status.ask(client, pod)
    except TerwayError as error:
        if not isinstance(error, DaemonUnavailable) and not pod:
            raise
        return error, exit_status(error)
    return seen, status.verdict(seen, pod)


def _page(seen: dict[str, Any] | TerwayError, pod: str) -> Page:
    if not isinstance(seen, TerwayError):
        return status.page(seen, pod)
    page = Page()
    page.line(("✘ ", "red"), seen.message)
    page.line("    → ", seen.hint)
    return page


def _facts(seen: dict[str, Any] | TerwayError, pod: str) -> list[str]:
    """What is worth a line when it changes: no times."""
    if isinstance(seen, TerwayError):
        return [seen.message]
    return [
        *([] if pod else [seen["state"] + (f": {seen['reason']}" if seen["reason"] else "")]),
        *(f"{finding['code']}: {finding['message']}" for finding in _lasting(seen["findings"])),
        *(f"{pods.name(one)} {one['state']} {one['address'] or ''}".rstrip() for one in seen["pods"]),
    ]


def _lasting(findings: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Without the one that counts seconds."""
    return (finding for finding in findings if finding["code"] != "unconfirmed")


def _tell(seen: dict[str, Any] | TerwayError, told: list[str], before: list[str], *, as_json: bool) -> None:
    if as_json:
        document = {"error": seen.message, "hint": seen.hint} if isinstance(seen, TerwayError) else seen
        print(json.dumps({"schema": 1, **document}), flush=True)
        return
    now = time.strftime("%H:%M:%S")
    for line in told:
        if line not in before:
            print(f"{now}  {clean(line)}", flush=True)
    for line in before:
        if line not in told and not any(other.split(" ")[0] == line.split(" ")[0] for other in told):
            print(f"{now}  no more: {clean(line)}", flush=True)
