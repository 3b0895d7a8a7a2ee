"""Draws docs/dhcp-states.md from the table that the DHCP client runs by: `python3 docs/dhcp_states.py`."""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from terwayd.dhcp.table import TABLE, Do, Go, Input, State

HEAD = """\
# The states of a pod's DHCP client

Drawn by `python3 docs/dhcp_states.py` from `terwayd/dhcp/table.py`, the table that the client runs by; a test
holds the two together.  RFC 2131 figure 5 is its model; PROBING is RFC 5227's.
"""
RULES = """\
## Every state, every input

What a cell says is the next state and what is done on the way.  An empty cell changes nothing: a message is
dropped, and a timer is not armed in a state that has no cell for it.  Of several timers that are due the
gravest is taken: the lease's end before T2 before T1 before a repeated message.  A message becomes an input
only if its xid, chaddr, client identifier and server are right and the lease in it can be used.
"""


def diagram() -> str:
    arrows: dict[tuple[State, State], list[str]] = defaultdict(list)
    for state, row in TABLE.items():
        for what, go in row.items():
            if what is not Input.RELEASE:  # from every state to one: told below instead
                arrows[state, go.to].append(what.value)
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {name(State.INIT)}"]
    lines += [f"    {name(a)} --> {name(b)}: {' / '.join(why)}" for (a, b), why in arrows.items()]
    return "\n".join(
        [*lines, "```", "", "From every state RELEASED is reached when the address is given back."]
    )


def name(state: State) -> str:
    return state.name


def cell(go: Go | None) -> str:
    if go is None:
        return ""
    return f"**{go.to.name}**" + (": " + ", ".join(do.name for do in go.do) if go.do else "")


def matrix() -> str:
    states = list(State)
    lines = ["| | " + " | ".join(state.name for state in states) + " |", "|---" * (len(states) + 1) + "|"]
    for what in Input:
        cells = " | ".join(cell(TABLE[state].get(what)) for state in states)
        lines.append(f"| {what.name}: {what.value} | {cells} |")
    return "\n".join(lines)


def actions() -> str:
    return "\n".join(["| | |", "|---|---|", *[f"| {do.name} | {do.value} |" for do in Do]])


def page() -> str:
    return "\n".join([HEAD, diagram(), "", RULES, matrix(), "", "## What is done", "", actions(), ""])


if __name__ == "__main__":
    Path(__file__).with_name("dhcp-states.md").write_text(page())
