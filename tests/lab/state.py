"""The network of a place as a comparable value: what must be the same before and after.

Lifetimes, counters, interface numbers and what the kernel is still busy with (a carrier coming up,
duplicate address detection) are left out.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

Facts = frozenset[str]

FLAGS = {"UP", "NOARP", "PROMISC", "ALLMULTI"}
ADDRESS = (
    "local",
    "prefixlen",
    "broadcast",
    "peer",
    "address",
    "scope",
    "label",
    "dynamic",
    "noprefixroute",
    "metric",
)
VOLATILE = ("expires", "flags", "error", "age", "used", "users", "cache")


@dataclass(frozen=True, slots=True)
class State:
    """Facts, one line each; equal when the network is configured alike."""

    links: Facts
    addresses: Facts
    routes: Facts
    rules: Facts

    COMMAND = (
        "ip -j -d addr show; echo; ip -j -4 route show table all; echo; ip -j -6 route show table all; echo; "
        "ip -j -4 rule show; echo; ip -j -6 rule show"
    )

    @classmethod
    def parse(cls, output: str) -> State:
        """What COMMAND printed."""
        links, routes4, routes6, rules4, rules6 = (json.loads(part or "[]") for part in output.split("\n\n"))
        return cls(
            links=frozenset(link(entry) for entry in links if entry),
            addresses=frozenset(
                f"{entry['ifname']}: {fact({key: info[key] for key in ADDRESS if info.get(key)})}"
                for entry in links
                if entry
                for info in entry.get("addr_info", [])
                if info
            ),
            routes=frozenset(
                f"{family} {route(entry)}"
                for family, entries in (("inet", routes4), ("inet6", routes6))
                for entry in entries
                if entry
            ),
            rules=frozenset(
                f"{family} {fact(entry)}"
                for family, entries in (("inet", rules4), ("inet6", rules6))
                for entry in entries
                if entry
            ),
        )

    def without(self, *interfaces: str) -> State:
        """The same without what concerns these interfaces."""

        def keep(facts: Facts) -> Facts:
            return frozenset(text for text in facts if not any(word in text.split() for word in words))

        words = [form.format(name) for name in interfaces for form in ("{}:", "dev={}", "master={}")]
        return State(keep(self.links), keep(self.addresses), keep(self.routes), keep(self.rules))

    def diff(self, later: State) -> list[str]:
        """What is gone (`- ...`) and new (`+ ...`) in `later`; empty when equal."""
        lines = []
        for kind, before, after in (
            ("link", self.links, later.links),
            ("address", self.addresses, later.addresses),
            ("route", self.routes, later.routes),
            ("rule", self.rules, later.rules),
        ):
            lines += [f"- {kind} {text}" for text in sorted(before - after)]
            lines += [f"+ {kind} {text}" for text in sorted(after - before)]
        return lines


def link(entry: dict[str, Any]) -> str:
    facts = {
        "mac": entry.get("address", ""),
        "mtu": entry["mtu"],
        "master": entry.get("master", ""),
        "kind": entry.get("linkinfo", {}).get("info_kind", ""),
        "flags": ",".join(sorted(FLAGS & set(entry["flags"]))),
        "promiscuity": entry.get("promiscuity", 0),
        "alias": entry.get("ifalias", ""),
    }
    return f"{entry['ifname']}: {fact(facts)}"


def route(entry: dict[str, Any]) -> str:
    facts = {key: value for key, value in entry.items() if key not in VOLATILE}
    if "onlink" in entry.get("flags", []):
        facts["onlink"] = "yes"
    facts.setdefault("table", "main")
    return fact(facts)


def fact(entry: dict[str, Any]) -> str:
    values = (
        (key, json.dumps(value) if isinstance(value, dict | list) else value) for key, value in entry.items()
    )
    return " ".join(f"{key}={value}" for key, value in sorted(values) if value not in ("", None))
