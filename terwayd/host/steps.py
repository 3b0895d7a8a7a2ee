"""The steps of a takeover: each a value that knows its inverse and prints as the command for it.

A plan is a tuple of steps; a dry run prints them; undoing is the inverses in reverse.  Every step
may be done twice, and undone without having been done: that is what makes a crash anywhere
harmless.  How a step is done is the kernel package's business, or a command of the NIC's manager.
"""

from __future__ import annotations

from terwayd.host.commands import RemoveFile, Run, StartClient, StopClient, WriteFile
from terwayd.host.interfaces import (
    AddBridge,
    AddPort,
    DelLink,
    Divert,
    EndDivert,
    Enslave,
    Release,
    SetAlias,
    SetDown,
    SetMac,
    SetMtu,
    SetSysctl,
    SetUp,
)
from terwayd.host.moves import (
    AddAddress,
    AddNeighbour,
    AddRoute,
    AddRule,
    DelAddress,
    DelRoute,
    DelRule,
)

Step = (
    AddBridge
    | DelLink
    | SetUp
    | SetDown
    | SetAlias
    | SetMac
    | SetMtu
    | Enslave
    | Release
    | AddPort
    | Divert
    | EndDivert
    | SetSysctl
    | AddAddress
    | DelAddress
    | AddNeighbour
    | AddRule
    | DelRule
    | AddRoute
    | DelRoute
    | WriteFile
    | RemoveFile
    | Run
    | StopClient
    | StartClient
)


def undo(steps: tuple[Step, ...]) -> tuple[Step, ...]:
    """The steps that lead back: the inverses, last first.

    What is done from the first manager's command that can be undone on is undone after all else, first
    first: a manager may know of the NIC again when that has what it had.
    """
    told = next((n for n, step in enumerate(steps) if isinstance(step, Run) and step.back), len(steps))
    back = [step.inverse() for step in (*reversed(steps[:told]), *steps[told:])]
    return tuple(step for step in back if step is not None)
