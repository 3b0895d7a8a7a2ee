"""terwayctl leases: the leases that the daemon holds for the pods, as the DHCP server gave them.

`renew` and `release` talk to the DHCP server, by way of the daemon.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from . import pods
from .client import Client
from .render import Page, count, duration, print_json, progress

DHCP_S = 600.0  # seconds: the daemon gives up before, when dhcp.timeout is over


def run(client: Client, *, as_json: bool = False) -> int:
    """List the leases."""
    leases = client.call("Leases")["leases"]
    print_json({"leases": leases}) if as_json else _table(leases).show()
    return 0


def show(client: Client, *, pod: str, as_json: bool = False) -> int:
    """All that is known about the leases of `pod`."""
    leases = pods.find(client.call("Leases")["leases"], pod)
    print_json({"leases": leases}) if as_json else _details(leases).show()
    return 0


def renew(client: Client, *, pod: str, as_json: bool = False) -> int:
    """Have the DHCP server extend the leases of `pod` now."""
    changes = _change(client, "RenewLease", pod, "asking the DHCP server for more time for")
    return _tell(changes, "{name} keeps {now} for another {expires}.", as_json=as_json)


def release(client: Client, *, pod: str, as_json: bool = False) -> int:
    """Give the leases of `pod` back and get new ones; the pod goes on with those."""
    changes = _change(client, "ReleaseLease", pod, "getting a new lease for")
    return _tell(changes, "{name} gave {before} back and has {now} for {expires}.", as_json=as_json)


def _change(client: Client, method: str, pod: str, doing: str) -> list[tuple[pods.Pod, pods.Pod]]:
    """Each lease before and after."""
    changes = []
    for before in pods.find(client.call("Leases")["leases"], pod):
        which = {key: before[key] for key in ("container_id", "ifname")}
        with progress(f"{doing} {pods.name(before)}"):
            changes.append((before, client.call(method, timeout=DHCP_S, **which)["lease"]))
    return changes


def _tell(changes: list[tuple[pods.Pod, pods.Pod]], text: str, *, as_json: bool) -> int:
    if as_json:
        print_json({"leases": [after for _, after in changes]})
        return 0
    page = Page()
    for before, after in changes:
        expires = "ever" if after["expires_in"] is None else duration(after["expires_in"])
        words = {"before": before["address"], "now": after["address"], "expires": expires}
        page.line(text.format(name=pods.name(after), **words))
    page.show()
    return 0


def _times(lease: dict[str, Any]) -> tuple[str, str]:
    if not lease["address"]:
        return "-", "-"
    return duration(lease["renews_in"]), duration(lease["expires_in"])


def _ago(when: float | None) -> str:
    if when is None:
        return "-"
    age = duration(time.time() - when)
    return age if age == "now" else f"{age} ago"


def _table(leases: list[dict[str, Any]]) -> Page:
    page = Page()
    page.table(
        ("POD", "ADDRESS", "MAC", "SERVER", "STATE", "RENEWS", "EXPIRES"),
        [
            (
                pods.name(lease),
                pods.cell(lease["address"]),
                lease["mac"],
                pods.cell(lease["server"]),
                pods.state(lease),
                *_times(lease),
            )
            for lease in leases
        ],
        spare=("SERVER", "MAC"),
    )
    if sys.stdout.isatty():  # a script that reads the columns wants rows only
        servers = {lease["server"] for lease in leases if lease["server"]}
        page.line(f"{count(len(leases), 'lease')}, {count(len(servers), 'server')}")
    return page


def _details(leases: list[dict[str, Any]]) -> Page:
    page = Page()
    for number, lease in enumerate(leases):
        if number:
            page.line()
        renews, expires = _times(lease)
        acquired = _ago(lease["acquired"])
        page.line((pods.name(lease), "bold"), "  ", pods.state(lease))
        for title, value in (
            ("address", lease["address"]),
            ("gateway", lease["gateway"]),
            ("server", lease["server"]),
            ("acquired", acquired),
            ("renews in", renews),
            ("expires in", expires),
            ("mac", lease["mac"]),
            ("client id", lease["client_id"]),
            ("hostname", lease["hostname"]),
            ("dns", " ".join(lease["dns"])),
            ("domain", lease["domain"]),
            ("search", " ".join(lease["search"])),
            ("routes", ", ".join(lease["routes"])),
            ("ntp", " ".join(lease["ntp"])),
            ("mtu", lease["mtu"]),
        ):
            page.line(f"  {title:<11}", pods.cell(value))
        for code, raw in lease.get("options", {}).items():
            page.line(f"  {f'option {code}':<11}", _option(raw))
    return page


def _option(raw: str) -> str:
    """The bytes of an option as text where they are that, else as hexadecimal digits."""
    text = bytes.fromhex(raw).rstrip(b"\0").decode("ascii", "replace")
    return text if text and text.isascii() and text.isprintable() else raw or "-"
