"""terwayctl doctor: looks at the host, asks the LAN, and says of each check what was found and what to do.

Works with and without a daemon; DHCP is asked through it where it runs.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from ipaddress import IPv4Address
from typing import Any

from terwayd.doctor.checks import Severity
from terwayd.errors import ConfigError
from terwayd.health import CHECKS, Finding, examine

from .client import Client
from .errors import DEGRADED, DaemonUnavailable, NotPermittedError, RemoteError, TerwayError
from .render import Page, count, print_json, progress

CONFIG = "/etc/terway.toml"
MARKS = {
    Severity.WELL: ("✔", "green"),
    Severity.UNKNOWN: ("-", ""),
    Severity.WARNING: ("!", "yellow"),
    Severity.ERROR: ("✘", "red"),
}


def run(
    client: Client, *, group: str = "", ignored: Collection[str] = (), bundle: str = "", as_json: bool = False
) -> int:
    """Show what the checks found; 0 when nothing has to be done, else 4."""
    _known(group, ignored)
    if os.geteuid() != 0:
        raise NotPermittedError("the doctor looks at what root alone may see")
    status = _status(client)
    findings = examine(_facts(client, status, group), group, ignored)
    if bundle:
        from .bundle import write

        write(client, bundle, status["config"] if status else CONFIG, [_shown(each) for each in findings])
    if as_json:
        print_json({"findings": [_shown(finding) for finding in findings]})
    else:
        _page(findings).show()
        if bundle:
            print(f"{bundle} is written: read it before you send it to anybody.")
    return DEGRADED if any(finding.counts for finding in findings) else 0


def _known(group: str, ignored: Collection[str]) -> None:
    groups = list(dict.fromkeys(check.group for check in CHECKS))
    if group and group not in groups:
        raise TerwayError(f"there is no group {group}", hint=f"one of: {', '.join(groups)}")
    codes = [check.code for check in CHECKS]
    if unknown := [code for code in ignored if code not in codes]:
        raise TerwayError(f"there is no check {unknown[0]}", hint=f"one of: {', '.join(codes)}")


def _status(client: Client) -> dict[str, Any] | None:
    try:
        return client.call("Status")
    except DaemonUnavailable:
        return None


def _facts(client: Client, status: dict[str, Any] | None, group: str) -> Any:
    from dataclasses import replace

    from terwayd.doctor import gather, live
    from terwayd.doctor.checks import LIVE

    try:
        facts = gather.gather(status, status["config"] if status else CONFIG)
    except ConfigError as error:
        raise TerwayError(error.message, hint=error.hint) from None
    if group and group not in LIVE:
        return facts
    pods = (pod["address"] for pod in (status["pods"] if status else ()) if pod["address"])
    addresses = [IPv4Address(address.partition("/")[0]) for address in pods]
    survey = _survey(client) if status is not None and status["state"] == "ready" else None
    with progress("asking the LAN"):
        return replace(facts, live=live.ask(facts, addresses, survey, dhcp=group != "lan"))


def _survey(client: Client) -> Any:
    from terwayd.dhcp.survey import Offer

    def survey(mac: str, broadcast: bool, first: bool) -> tuple[Offer, ...]:
        try:
            offers = client.call("Survey", mac=mac, broadcast=broadcast, first=first)["offers"]
        except RemoteError:  # it has stopped taking pods a moment ago
            return ()
        return tuple(
            Offer(IPv4Address(o["server"]), o["server_mac"], IPv4Address(o["address"]), o["after"])
            for o in offers
        )

    return survey


def _shown(finding: Finding) -> dict[str, Any]:
    return {
        "code": finding.code,
        "group": finding.group,
        "severity": finding.severity.value,
        "message": finding.message,
        "hint": finding.hint,
        "ignored": finding.ignored,
    }


def _page(findings: tuple[Finding, ...]) -> Page:
    page = Page()
    group = ""
    for finding in findings:
        page.item(
            [
                f"{finding.group if finding.group != group else '':<8}",
                MARKS[finding.severity] if not finding.ignored else ("-", ""),
                " ",
                (f"{finding.code:<18}", "bold" if finding.counts else ""),
            ],
            finding.message,
            " (ignored)" if finding.ignored else "",
        )
        if finding.hint and not finding.ignored:
            page.line("          → ", finding.hint)
        group = finding.group
    errors = sum(finding.counts and finding.severity is Severity.ERROR for finding in findings)
    warnings = sum(finding.counts and finding.severity is Severity.WARNING for finding in findings)
    if errors or warnings:
        page.line(f"{count(errors, 'error')}, {count(warnings, 'warning')}")
    return page
