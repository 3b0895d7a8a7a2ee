"""What the demo measures on its way, and the lines that it ends with."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field

from tests.lab import Loss


@dataclass
class Figures:
    """What is measured on the way.  Seconds."""

    ready: list[float] = field(default_factory=list)
    attach: list[float] = field(default_factory=list)
    detach: list[float] = field(default_factory=list)
    mended: list[float] = field(default_factory=list)
    restarted: list[float] = field(default_factory=list)
    pulled: list[Loss] = field(default_factory=list)
    killed: list[Loss] = field(default_factory=list)
    takeover: list[tuple[str, Loss]] = field(default_factory=list)
    giveback: list[tuple[str, Loss]] = field(default_factory=list)

    def lines(self) -> list[tuple[str, str]]:
        lines = [("node ready after the daemon's start", spread(self.ready))] if self.ready else []
        if self.attach:
            lines.append(("pod attached (the plugin's whole run, lease included)", spread(self.attach)))
        if self.detach:
            lines.append(("pod detached, lease given back", spread(self.detach)))
        if self.mended:
            lines.append(("the NIC back under the bridge", spread(self.mended)))
        if self.restarted:
            lines.append(("ready again after the daemon was killed", spread(self.restarted)))
        losses = {
            f"{family} pings to the nodes lost during {title}": [
                loss for name, loss in seen if name == family
            ]
            for title, seen in (("takeover", self.takeover), ("teardown", self.giveback))
            for family in ("IPv4", "IPv6")
        }
        losses["pings to pods lost while the NIC was pulled"] = self.pulled
        losses["pings to pods lost while there was no daemon"] = self.killed
        lines += [(what, total(seen)) for what, seen in losses.items() if seen]
        return lines


def total(losses: list[Loss]) -> str:
    return f"{sum(len(loss.lost) for loss in losses)} of {sum(loss.sent for loss in losses)}"


def spread(seconds: list[float]) -> str:
    low, middle, high = min(seconds), statistics.median(seconds), max(seconds)
    if len(seconds) == 1:
        return f"{middle * 1000:.0f} ms"
    return f"median {middle * 1000:.0f} ms ({low * 1000:.0f} to {high * 1000:.0f}), {len(seconds)} times"
