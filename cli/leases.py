"""terwayctl leases: the leases that the daemon holds for the pods, as the DHCP server gave them."""

from __future__ import annotations

import sys
import time
from typing import Any

from . import pods
from .client import Client
from .render import Page, count, duration, print_json


def run(client: Client, *, pod: str = "", as_json: bool = False) -> int:
    """List the leases, or all that is known about those of `pod`."""
    leases = pods.find(client.call("Leases")["leases"], pod)
    if as_json:
        print_json({"leases": leases})
    elif pod:
        _details(leases).show()
    else:
        _table(leases).show()
    return 0


def _times(lease: dict[str, Any]) -> tuple[str, str]:
    if not lease["address"]:
        return "-", "-"
    return duration(lease["renews_in"]), duration(lease["expires_in"])


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
        acquired = f"{duration(time.time() - lease['acquired'])} ago" if lease["acquired"] else "-"
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
