"""What the node is by now, and why: for the journal, for status, and for whoever asks before a pod is attached."""

from __future__ import annotations

import enum
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from terwayd.config import Reload
from terwayd.errors import HostError, TerwayError
from terwayd.events import NOT_READY, NOT_RELOADED, RELOADED, about

log = logging.getLogger(__name__)


class Condition(enum.Enum):
    """What the node is: on its way, taking pods, unable to, or given back to itself by a teardown."""

    STARTING = "starting"
    READY = "ready"
    DEGRADED = "degraded"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class Health:
    """The node's condition since a Unix time, with the reason and the next step where it is not ready."""

    condition: Condition
    reason: str = ""
    hint: str = ""
    since: float = 0.0


class Told:
    """What is told of the node: its health, and what of the configuration file is not in force."""

    def __init__(self, on_change: Callable[[], None]) -> None:
        self.health = Health(Condition.STARTING, "waiting for the network", since=time.time())
        self.unapplied: tuple[str, str] | None = None  # in words, and the next step
        self._on_change = on_change

    @property
    def ready(self) -> bool:
        return self.health.condition is Condition.READY

    @property
    def down(self) -> bool:
        return self.health.condition is Condition.DOWN

    def refusal(self) -> HostError:
        """Why the node takes no pods."""
        return HostError(
            f"this node takes no pods: it is {self.health.condition.value}: {self.health.reason}",
            hint=self.health.hint or "terwayctl status",
        )

    def become(self, condition: Condition, reason: str = "", hint: str = "") -> None:
        """Tell a new condition; the same one for the same reason is no news."""
        if (condition, reason) != (self.health.condition, self.health.reason):
            level = logging.ERROR if condition is Condition.DEGRADED else logging.INFO
            fields = about(NOT_READY) if condition is Condition.DEGRADED else None
            log.log(level, "%s%s", condition.value, f": {reason}" if reason else "", extra=fields)
            self.health = Health(condition, reason, hint, time.time())
            self._on_change()

    def reloaded(self, path: str, done: Reload) -> None:
        """Tell what of the configuration file `path` is in force, and what waits for a restart."""
        if done.applied:
            log.info("%s: in force: %s", path, ", ".join(done.applied), extra=about(RELOADED))
        self.unapplied = None
        if done.waiting:
            words = f"{', '.join(done.waiting)} changed in {path}, and in force after a restart only"
            log.warning("%s", words, extra=about(NOT_RELOADED))
            self.unapplied = (words, "systemctl restart terwayd")

    def not_reloaded(self, error: TerwayError) -> None:
        """Tell that the configuration file is not in force."""
        words = f"{error.message}; the configuration from before stays in force"
        log.error("%s", words, extra=about(NOT_RELOADED))
        self.unapplied = (words, error.hint or "systemctl reload terwayd")
