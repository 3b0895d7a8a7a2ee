"""The pods that the daemon reports: `terwayctl pods`, and how every command names, finds and colours them."""

from __future__ import annotations

from typing import Any

from .client import Client
from .errors import TerwayError
from .render import Page, Styled, print_json

Pod = dict[str, Any]

SERVED = ("bound", "renewing", "rebinding")
"""States in which a pod's address is its own."""


def run(client: Client, *, as_json: bool = False) -> int:
    """List the attached pods and where each is: on the LAN, on the host, in its runtime."""
    attached = client.call("Status")["pods"]
    if as_json:
        print_json({"pods": attached})
        return 0
    page = Page()
    page.table(
        ("POD", "ADDRESS", "GATEWAY", "NETWORK", "IFACE", "HOST IFACE", "CONTAINER"),
        [
            (
                name(pod),
                cell(pod["address"]),
                cell(pod["gateway"]),
                cell(pod["network"]),
                pod["ifname"],
                pod["host_ifname"],
                str(pod["container_id"])[:12],
            )
            for pod in attached
        ],
        spare=("NETWORK", "CONTAINER", "HOST IFACE"),
    )
    page.show()
    return 0


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


def names(client: Client, start: str) -> list[str]:
    """The names that begin with `start`; none where the daemon cannot be asked, since a shell asks."""
    try:
        found = client.call("Status", timeout=2.0)["pods"]
    except TerwayError:
        return []
    begun = [text for text in map(name, found) if text.startswith(start)]
    return begun or [pod["name"] for pod in found if start and pod["name"].startswith(start)]


def state(pod: Pod) -> Styled:
    """The lease's state, coloured by what it means for the pod."""
    colour = {"bound": "green", "renewing": "green", "rebinding": "yellow"}.get(pod["state"], "red")
    return (str(pod["state"]), colour)


def cell(value: object) -> str:
    """A value in a column: - for none, so that columns can be counted."""
    return "-" if value is None or value == "" else str(value)
