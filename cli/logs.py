"""terwayctl logs: what terwayd has written to the journal, of one pod when it is named."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from typing import Any

from . import pods
from .client import Client
from .errors import TerwayError
from .render import clean, print_json

UNIT = "terwayd.service"
FIELD = "TERWAY_POD"
LEVELS = ("emergency", "alert", "critical", "error", "warning", "notice", "info", "debug")


def run(
    client: Client, *, pod: str = "", follow: bool = False, lines: int = 100, as_json: bool = False
) -> int:
    """Show the last `lines` entries, and with `follow` those that come; journalctl's exit status."""
    command = ["journalctl", f"--unit={UNIT}", f"--lines={lines}", "--no-pager", "--no-hostname"]
    command += ["--follow"] if follow else []
    command += _of(_full_name(client, pod)) if pod else []
    if not as_json:
        sys.stdout.flush()
        try:
            # Without a link to the manual in each line, of a character that few fonts have.
            os.execvpe(command[0], command, {**os.environ, "SYSTEMD_URLIFY": "0"})  # noqa: S606
        except FileNotFoundError:
            raise _no_journal() from None
    with _journalctl(*command, "--output=json") as process:
        assert process.stdout is not None
        entries = map(_entry, process.stdout)
        if follow:
            for entry in entries:
                print(json.dumps({"schema": 1, **entry}), flush=True)
        else:
            print_json({"entries": list(entries)})
    return process.wait()


def _full_name(client: Client, pod: str) -> str:
    """namespace/name where the daemon knows which pod is meant; a pod that is gone has logs too."""
    try:
        return pods.name(pods.find(client.call("Status")["pods"], pod)[0])
    except TerwayError:
        return pod


def _of(name: str) -> list[str]:
    """What selects the entries of a pod, in any namespace when none is named: its field, where there are such entries,
    else its name in the text."""
    with _journalctl("journalctl", f"--field={FIELD}") as process:
        assert process.stdout is not None
        pods = process.stdout.read().splitlines()
    if fields := [f"{FIELD}={pod}" for pod in pods if name in (pod, pod.rpartition("/")[2])]:
        return fields
    return ["--case-sensitive=yes", f"--grep=(^|[^\\w/.-]){re.escape(name)}($|[^\\w.-])"]


def _journalctl(*command: str) -> subprocess.Popen[str]:
    try:
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, errors="replace")
    except FileNotFoundError:
        raise _no_journal() from None


def _no_journal() -> TerwayError:
    return TerwayError(
        "there is no journal here: journalctl is not installed", hint="the log is where terwayd was started"
    )


def _entry(line: str) -> dict[str, Any]:
    """An entry of the journal as terwayctl tells it."""
    raw = json.loads(line)
    message = raw.get("MESSAGE")
    if isinstance(message, list):  # how journalctl writes what is not UTF-8
        message = bytes(message).decode(errors="replace")
    return {
        "time": int(raw["__REALTIME_TIMESTAMP"]) / 1e6,
        "level": LEVELS[int(raw.get("PRIORITY", 6))],
        "pod": raw.get(FIELD, ""),
        "message": clean(message or ""),
    }
