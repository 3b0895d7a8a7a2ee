"""What status and leases share: naming, finding and colouring the pods that the daemon reports."""

from __future__ import annotations

from typing import Any

from .errors import TerwayError
from .render import Styled

Pod = dict[str, Any]

SERVED = ("bound", "renewing", "rebinding")
"""States in which a pod's address is its own."""


def name(pod: Pod) -> str:
    """namespace/name, or the start of the container's ID where there is no pod."""
    if not pod["name"]:
        digest = str(pod["container_id"])
        return digest[:12] if len(digest) == 64 else digest
    return f"{pod['namespace']}/{pod['name']}" if pod["namespace"] else str(pod["name"])


def find(pods: list[Pod], wanted: str) -> list[Pod]:
    """The pods that `wanted` names: namespace/name, name, or the start of a container's ID.

    All pods when it is empty; raises TerwayError when it names none.
    """
    if not wanted:
        return pods
    found = [pod for pod in pods if wanted in (name(pod), pod["name"])]
    if not found and len(wanted) >= 4:
        found = [pod for pod in pods if str(pod["container_id"]).startswith(wanted)]
    if not found:
        raise TerwayError(f"no pod or container {wanted} is attached here", hint="terwayctl status")
    return found


def state(pod: Pod) -> Styled:
    """The lease's state, coloured by what it means for the pod."""
    colour = {"bound": "green", "renewing": "green", "rebinding": "yellow"}.get(pod["state"], "red")
    return (str(pod["state"]), colour)


def cell(value: object) -> str:
    """A value in a column: - for none, so that columns can be counted."""
    return "-" if value is None or value == "" else str(value)
