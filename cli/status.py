"""terwayctl status: what the daemon says about the host, its findings and the pods.

The daemon judges, this renders: a healthy host gets a few quiet lines, a sick one its findings
and what to do about each.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from . import pods
from .client import Client
from .errors import DEGRADED
from .render import Page, clean, count, duration, print_json

MARKS = {
    "ready": ("●", "green"),
    "starting": ("…", "yellow"),
    "degraded": ("!", "yellow"),
    "down": ("✘", "red"),
}


def run(client: Client, *, pod: str = "", brief: bool = False, as_json: bool = False) -> int:
    """Show the status, of one pod when `pod` names it; 0 when all is well, else 4."""
    status = ask(client, pod)
    if as_json:
        print_json(status)
    elif brief:
        print(clean(in_brief(status)))
    else:
        page(status, pod).show()
    return verdict(status, pod)


def ask(client: Client, pod: str = "") -> dict[str, Any]:
    """What the daemon says, with the pods that `pod` names only."""
    status = client.call("Status")
    status["pods"] = pods.find(status["pods"], pod)
    return status


def verdict(status: dict[str, Any], pod: str = "") -> int:
    """0 when all is well, of the pod if one is asked for, else 4."""
    if pod:
        return 0 if all(one["state"] in pods.SERVED for one in status["pods"]) else DEGRADED
    return 0 if status["state"] == "ready" else DEGRADED


def page(status: dict[str, Any], pod: str = "") -> Page:
    """What there is to see, of the pod if one is asked for."""
    return _pod_page(status["pods"]) if pod else _page(status)


def in_brief(status: dict[str, Any]) -> str:
    """One line."""
    findings = Counter(finding["code"] for finding in status["findings"])
    what = " ".join(f"{code}({number})" for code, number in findings.items())
    if status["state"] == "ready":
        return ", ".join(filter(None, (f"ready: {count(len(status['pods']), 'pod')}", what)))
    return f"{status['state']}: {what or status['reason']}".rstrip(": ")


def _page(status: dict[str, Any]) -> Page:
    page = Page()
    mark, colour = MARKS.get(status["state"], ("?", "red"))
    age = duration(time.time() - status["since"])
    page.line(
        (mark, colour),
        (f" terwayd {status['version']}  ", "bold"),
        (status["state"], colour),
        f" for {age}, {count(len(status['pods']), 'pod')}"
        if age != "now"
        else f", {count(len(status['pods']), 'pod')}",
    )
    told = {finding["message"] for finding in status["findings"]}
    if status["reason"] and status["state"] != "ready" and status["reason"] not in told:
        page.item(["  "], status["reason"])
        if status["state"] == "down":
            page.line("    → terwayctl setup")
    if host := status["host"]:
        gateways = "".join(f"  gw {gateway}" for gateway in host["gateways"])
        page.item(
            ["  bridge  "],
            f"{host['bridge']} ← {host['uplink']}  {' '.join(host['addresses'])}{gateways}",
            f"  mtu {host['mtu']}  {host['mac']}",
        )
    if status["pods"]:
        page.item(["  dhcp    "], _dhcp(status["pods"]))
    for rule in status.get("rules", []):
        page.item(["  rules   "], f"{rule['where']}: {rule['what']}")
    page.item(["  config  "], status["config"])
    for finding in sorted(status["findings"], key=lambda finding: finding["severity"] != "error"):
        _finding(page, finding)
    if status["pods"]:
        page.line()
        page.table(
            ("POD", "ADDRESS", "STATE", "RENEWS", "IFACE"),
            [
                (
                    pods.name(pod),
                    pods.cell(pod["address"]),
                    pods.state(pod),
                    duration(pod["renews_in"]) if pod["address"] else "-",
                    pods.cell(pod["host_ifname"]),
                )
                for pod in status["pods"]
            ],
            indent=2,
            spare=("IFACE",),
        )
    return page


def _dhcp(attached: list[pods.Pod]) -> str:
    servers = " ".join(sorted({pod["server"] for pod in attached if pod["server"]})) or "no server yet"
    states = ", ".join(f"{n} {state}" for state, n in Counter(pod["state"] for pod in attached).most_common())
    renewals = [pod["renews_in"] for pod in attached if pod["renews_in"] is not None]
    following = f"  next renewal {_when(min(renewals))}" if renewals else ""
    return f"{servers}  {states}{following}"


def _when(seconds: float) -> str:
    text = duration(seconds)
    return text if text == "now" else f"in {text}"


def _finding(page: Page, finding: dict[str, Any]) -> None:
    mark, colour = ("✘", "red") if finding["severity"] == "error" else ("!", "yellow")
    page.item(["  ", (mark, colour), " ", (finding["code"], "bold"), "  "], finding["message"])
    if finding["hint"]:
        page.line("    → ", finding["hint"])


def _pod_page(found: list[pods.Pod]) -> Page:
    page = Page()
    for number, pod in enumerate(found):
        if number:
            page.line()
        page.line((pods.name(pod), "bold"), "  ", pods.state(pod))
        page.line("  address    ", pods.cell(pod["address"]), "  gw ", pods.cell(pod["gateway"]))
        page.line("  dhcp       ", _lease(pod))
        page.line(
            "  interface  ", f"{pod['ifname']} {pod['mac']}, on the host {pods.cell(pod['host_ifname'])}"
        )
        if pod.get("dropped"):
            page.item(
                ["  ", ("dropped", "yellow"), "    "],
                f"{count(pod['dropped'], 'frame')}, not its own to send: another MAC, address or protocol, a VLAN tag, DHCP, router advertisements",
            )
            page.line("    → should it send them: ", _unguard(pod))
        page.line("  container  ", str(pod["container_id"]))
        page.line("  network    ", str(pod["network"]))
    return page


def _unguard(pod: pods.Pod) -> str:
    if pod["namespace"]:
        return 'the annotation terway.io/antispoof: "false"'
    return f'"antispoof": false in the network {pods.cell(pod["network"])}'


def _lease(pod: pods.Pod) -> str:
    if not pod["address"]:
        return "no lease"
    expires = "never expires" if pod["expires_in"] is None else f"expires {_when(pod['expires_in'])}"
    renews = "" if pod["renews_in"] is None else f"renews {_when(pod['renews_in'])}, "
    return f"from {pods.cell(pod['server'])}, {renews}{expires}"
