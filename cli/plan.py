"""A plan of the daemon's as text: the `ip` commands an administrator would type."""

from __future__ import annotations

from typing import Any

from .errors import DEGRADED
from .render import Page, count, print_json


def show(plan: dict[str, Any], *, action: str, remark: str = "", as_json: bool) -> int:
    """Print `plan`; 4 when it would change anything, else 0. `remark` is one more warning."""
    warnings = [*plan["warnings"], *filter(None, [remark])]
    if as_json:
        print_json({"action": action, **plan, "warnings": warnings})
    else:
        _page(plan, warnings, action).show()
    return DEGRADED if plan["changes"] else 0


def _page(plan: dict[str, Any], warnings: list[str], action: str) -> Page:
    page = Page()
    uplink, bridge, steps = plan["uplink"], plan["bridge"], plan["steps"]
    if plan["changes"]:
        way = f"{uplink} → {bridge}" if action == "setup" else f"{bridge} → {uplink}"
        page.line((f"Plan for {way}", "bold"), f"  ({count(len(steps), 'step')})")
    elif action == "setup":
        page.line(f"{bridge} carries {uplink} already: nothing to do.")
    else:
        page.line(f"{uplink} is not under a bridge of terwayd's: nothing to do.")
    width = len(str(len(steps)))
    for number, step in enumerate(steps, start=1):
        page.line(f"  {number:>{width}}  {step['command']}")
    for warning in warnings:
        page.line(("!", "yellow"), " ", warning)
    if plan["changes"]:
        page.line(f"Nothing was changed. Apply with: terwayctl {action}")
    return page
