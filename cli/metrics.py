"""terwayctl metrics: what Prometheus scrapes, printed, or written for node_exporter's textfile collector."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import Any

from terwayd.metrics import unavailable

from .client import Client
from .errors import DaemonUnavailable, NotPermittedError, TerwayError
from .render import clean, print_json

LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def show(client: Client, *, as_json: bool = False) -> int:
    """Print the page, or its families."""
    text: str = client.call("Metrics")["text"]
    if as_json:
        print_json({"families": families(text)})
        return 0
    print("\n".join(clean(line) for line in text.splitlines()))
    return 0


def write(client: Client, path: str, *, as_json: bool = False) -> int:
    """Put the page into `path` by a rename; without a daemon, one that says terway_up 0."""
    try:
        text: str = client.call("Metrics")["text"]
    except DaemonUnavailable:
        _replace(Path(path), unavailable())
        raise
    _replace(Path(path), text)
    if as_json:
        print_json({"file": path, "families": len(families(text))})
    return 0


def families(text: str) -> list[dict[str, Any]]:
    """What terwayd's page says, by family: it has HELP and TYPE of each, then all its samples."""
    found: list[dict[str, Any]] = []
    for line in text.splitlines():
        if line.startswith("# HELP "):
            name, _, told = line.removeprefix("# HELP ").partition(" ")
            found.append({"name": name, "type": "", "help": told, "samples": []})
        elif line.startswith("# TYPE "):
            found[-1]["type"] = line.rpartition(" ")[2]
        else:
            series, _, value = line.rpartition(" ")
            labels = {label: _unescape(it) for label, it in LABEL.findall(series)}
            sample = {"name": series.partition("{")[0], "labels": labels, "value": float(value)}
            found[-1]["samples"].append(sample)
    return found


def _unescape(value: str) -> str:
    return re.sub(r"\\(.)", lambda match: "\n" if match[1] == "n" else match[1], value)


def _replace(path: Path, text: str) -> None:
    """`path` holds the old text or the new one, never a part; the collector reads names with .prom only."""
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except PermissionError:
        raise NotPermittedError(f"no permission to write into {path.parent}") from None
    except OSError as error:
        raise TerwayError(
            f"cannot write into {path.parent}: {error.strerror}", hint=f"mkdir -p {path.parent}"
        ) from None
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
