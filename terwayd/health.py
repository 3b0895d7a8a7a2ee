"""All checks of the doctor, and the findings that they come to."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from terwayd.doctor.checks import HOST_CHECKS, Check, Severity
from terwayd.doctor.facts import Facts
from terwayd.doctor.lan import LAN_CHECKS

CHECKS: Final[tuple[Check, ...]] = (*HOST_CHECKS, *LAN_CHECKS)


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found; `ignored` where nobody wants to know."""

    code: str
    group: str
    severity: Severity
    message: str
    hint: str
    ignored: bool = False

    @property
    def counts(self) -> bool:
        """Whether somebody has to do something."""
        return not self.ignored and self.severity in {Severity.WARNING, Severity.ERROR}


def examine(facts: Facts, group: str = "", ignored: Collection[str] = ()) -> tuple[Finding, ...]:
    """What each check of `group` ("" for all) says of `facts`."""
    found = []
    for check in CHECKS:
        if group in ("", check.group):
            verdict = check.judge(facts)
            found.append(
                Finding(
                    check.code,
                    check.group,
                    verdict.severity,
                    verdict.message,
                    verdict.hint,
                    check.code in ignored,
                )
            )
    return tuple(found)
