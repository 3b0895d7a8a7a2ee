"""terwayctl metrics: what Prometheus scrapes, printed, or written for node_exporter's textfile collector."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from terwayd.metrics import unavailable

from .client import Client
from .errors import DaemonUnavailable, NotPermittedError, TerwayError
from .render import clean


def show(client: Client) -> int:
    """Print the page."""
    text: str = client.call("Metrics")["text"]
    print("\n".join(clean(line) for line in text.splitlines()))
    return 0


def write(client: Client, path: str) -> int:
    """Put the page into `path` by a rename; without a daemon, one that says terway_up 0."""
    try:
        text: str = client.call("Metrics")["text"]
    except DaemonUnavailable:
        _replace(Path(path), unavailable())
        raise
    _replace(Path(path), text)
    return 0


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
