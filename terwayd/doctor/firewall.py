"""Which netfilter chains drop what one port of the bridge sends to another, from what nft prints.

With br_netfilter, bridged IPv4 passes the forward hook as routed packets do: a policy of drop there,
as Docker and firewalls set it, cuts the pods off.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]

_FAMILIES = ("ip", "inet")
_HARMLESS = {"counter", "log", "comment"}


@dataclass(frozen=True, slots=True)
class Dropping:
    """A chain at the forward hook that ends in a drop, and takes no exception for the bridge."""

    family: str
    table: str
    chain: str

    @property
    def exception(self) -> str:
        """The nft command that takes it, with {bridge} for its name."""
        rule = 'iifname "{bridge}" oifname "{bridge}" accept'
        return f"nft insert rule {self.family} {self.table} {self.chain} {rule}"

    def __str__(self) -> str:
        return f"{self.family} {self.table} {self.chain}"


def dropping(ruleset: str, bridge: str) -> tuple[Dropping, ...]:
    """The chains of `nft -j list ruleset` that drop what goes from port to port of `bridge`."""
    entries = json.loads(ruleset).get("nftables", [])
    chains = [entry["chain"] for entry in entries if "chain" in entry]
    rules = [entry["rule"] for entry in entries if "rule" in entry]
    found = []
    for chain in chains:
        if chain.get("hook") != "forward" or chain.get("family") not in _FAMILIES:
            continue
        verdict = _verdict(chain, rules, bridge, depth=0) or chain.get("policy", "accept")
        if verdict == "drop":
            found.append(Dropping(chain["family"], chain["table"], chain["name"]))
    return tuple(found)


def _verdict(chain: Json, rules: list[Json], bridge: str, depth: int) -> str:
    """What becomes of such a packet in `chain`: accept, drop, or "" where no rule decides."""
    for rule in _of(chain, rules):
        for expression in rule.get("expr", []):
            kind = next(iter(expression), "")
            if kind == "accept":
                return "accept"
            if kind in {"drop", "reject"}:
                return "drop"
            if kind in {"jump", "goto"} and depth < 8:
                target = {**chain, "name": expression[kind]["target"]}
                if verdict := _verdict(target, rules, bridge, depth + 1):
                    return verdict
                break
            if kind in _HARMLESS or (kind == "match" and _is_bridged(expression["match"], bridge)):
                continue
            if kind == "xt" and (expression[kind] or {}).get("name") == "physdev":
                continue
            break  # it may match or not: a rule for some packets alone decides nothing here
    return ""


def _of(chain: Json, rules: list[Json]) -> Iterator[Json]:
    place = (chain["family"], chain["table"], chain["name"])
    return (rule for rule in rules if (rule["family"], rule["table"], rule["chain"]) == place)


def _is_bridged(match: Json, bridge: str) -> bool:
    """Whether the match is true for all that goes from port to port of `bridge`."""
    key = match.get("left", {}).get("meta", {}).get("key") if isinstance(match.get("left"), dict) else ""
    right = match.get("right")
    names = right.get("set", []) if isinstance(right, dict) else [right]
    return match.get("op") == "==" and key in {"iifname", "oifname", "ibrname", "obrname"} and bridge in names
