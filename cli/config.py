"""terwayctl config: whether the configuration file is right, and what is in effect."""

from __future__ import annotations

import json
from typing import Any

from .client import Client
from .errors import DEGRADED, NotRunningError
from .render import Page, print_json

Sections = dict[str, dict[str, Any]]


def show(client: Client, *, as_json: bool = False) -> int:
    """Every key as it is in effect, or as it would be where no daemon runs."""
    running = _running(client)
    path, sections = (running["path"], running["config"]) if running else _file("")
    if as_json:
        print_json({"path": path, "running": running is not None, "config": sections})
        return 0
    from terwayd.config import Config, values

    defaults = values(Config())
    page = Page()
    page.line(f"# {path}, {'as terwayd runs with it' if running else 'which terwayd does not run with now'}")
    for name, section in sections.items():
        page.line()
        page.line((f"[{name}]", "bold"))
        for key, value in section.items():
            line = f"{key} = {toml(value)}"
            is_default = defaults.get(name, {}).get(key) == value
            page.line(f"{line:<40}  ", ("# default", "dim")) if is_default else page.line((line, "green"))
    page.show()
    return 0


def check(client: Client, *, file: str = "", as_json: bool = False) -> int:
    """Read the file as the daemon does; 4 when a running daemon goes by something else."""
    running = _running(client)
    path, sections = _file(file or (running["path"] if running else ""))
    compared = running is not None and running["path"] == path
    changes = _changes(running["config"], sections) if running and compared else []
    if as_json:
        print_json({"path": path, "running": compared, "changes": changes})
    else:
        page = Page()
        page.line(f"{path} is right{', and in effect' if compared and not changes else ''}.")
        for change in changes:
            page.line(
                ("! ", "yellow"),
                (change["key"], "bold"),
                f" is {toml(change['file'])} there, but terwayd runs with {toml(change['running'])}",
            )
        if changes:
            page.line("    → systemctl reload terwayd")
        page.show()
    return DEGRADED if changes else 0


def toml(value: Any) -> str:
    """A value as TOML writes it."""
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml(item)}" for key, item in value.items()) + "}"
    return json.dumps(value, ensure_ascii=False)  # of text, numbers and flags, both write the same


def _running(client: Client) -> dict[str, Any] | None:
    try:
        return client.call("Config")
    except NotRunningError:
        return None


def _file(path: str) -> tuple[str, Sections]:
    from terwayd.config import DEFAULT_PATH, values
    from terwayd.daemon import read_config  # brings netlink along

    config = read_config(path or DEFAULT_PATH)
    return config.path, values(config)


def _changes(running: Sections, wanted: Sections) -> list[dict[str, Any]]:
    return [
        {"key": f"{name}.{key}", "running": running.get(name, {}).get(key), "file": value}
        for name, section in wanted.items()
        for key, value in section.items()
        if running.get(name, {}).get(key) != value
    ]
