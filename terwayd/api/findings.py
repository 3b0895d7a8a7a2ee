"""What `status` calls a problem: the findings of a node, each with a code, how grave it is, and a way out."""

from __future__ import annotations

import time

from terwayd.condition import Condition
from terwayd.kernel.sysctl import read_sysctl
from terwayd.node import Node

_TELL_REPAIRS = 3600.0  # seconds that status speaks of a repair


def findings(node: Node, drift: tuple[str, ...]) -> list[dict[str, str]]:
    """All that is wrong with `node`, whose host differs by `drift`, as io.terway.Status replies it."""
    found, health = [], node.health
    if health.condition is Condition.DEGRADED:
        found.append(_finding("not-ready", "error", health.reason, health.hint))
    found += [
        _finding(
            "mended",
            "warning",
            f"{time.strftime('%H:%M:%S', time.localtime(when))}: {what}",
            "journalctl -u terwayd",
        )
        for when, what in node.repairs
        if when > time.time() - _TELL_REPAIRS
    ]
    if (left := node.probation.left) is not None:
        message = f"the takeover is undone in {max(left, 0):.0f} s unless it is confirmed"
        found.append(_finding("unconfirmed", "warning", message, "terwayctl confirm"))
    if node.set_aside is not None:
        message = f"the state could not be read, and is set aside as {node.set_aside}"
        found.append(_finding("state-lost", "warning", message, "journalctl -u terwayd; terwayctl leases"))
    found += [_finding("drift", "error", what, "systemctl restart terwayd") for what in drift]
    if node.told.unapplied is not None:
        found.append(_finding("configuration", "warning", *node.told.unapplied))
    if node.host_lease is not None and node.host_lease.trouble:
        found.append(_finding("host-lease", "error", node.host_lease.trouble, "journalctl -u terwayd"))
    found += [_finding(t.code, t.severity, t.message, t.hint) for t in node.firewall.trouble]
    served = node.known_pods.served if node.known_pods is not None else ()
    if served and read_sysctl("net/ipv4/ip_forward") == "0":
        message = f"net.ipv4.ip_forward is 0: {' and '.join(served)}"
        found.append(_finding("no-forwarding", "warning", message, "sysctl -w net.ipv4.ip_forward=1"))
    for known in node.known_pods or ():
        trouble = node.known_pods.upkeep.trouble(known.key) if node.known_pods is not None else None
        if trouble is not None:
            found.append(_finding(trouble.code, trouble.severity, trouble.message, trouble.hint))
    return found


def _finding(code: str, severity: str, message: str, hint: str) -> dict[str, str]:
    return {"code": code, "severity": severity, "message": message, "hint": hint}
