"""Which netfilter chains drop what one port of the bridge sends to another, from what nft and iptables-legacy print.

With br_netfilter, bridged packets pass the forward hook as routed ones do: a policy of drop there,
as Docker and firewalls set it, cuts the pods off.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

Json = dict[str, Any]

# Whose chains bridged packets pass, by the setting net.bridge.bridge-nf-call-*.
FAMILIES: Final = {
    "iptables": ("ip", "inet", "iptables-legacy"),
    "ip6tables": ("ip6", "inet", "ip6tables-legacy"),
}
_HARMLESS = {"counter", "log", "comment"}
_TARGETS = {
    "ACCEPT": "accept",
    "DROP": "drop",
    "REJECT": "reject",
    "RETURN": "return",
    "LOG": "log",
    "NFLOG": "log",
}
_NAMES = {"-i": "iifname", "-o": "oifname"}


@dataclass(frozen=True, slots=True)
class Dropping:
    """A chain at the forward hook that ends in a drop, and takes no exception for the bridge.

    `family` is nftables', or the command of an iptables of old.
    """

    family: str
    table: str
    chain: str

    @property
    def exception(self) -> str:
        """The command that takes it, with {bridge} for its name."""
        if self.family.endswith("-legacy"):
            return f"{self.family} -I {self.chain} -i {{bridge}} -o {{bridge}} -j ACCEPT"
        rule = 'iifname "{bridge}" oifname "{bridge}" accept'
        return f"nft insert rule {self.family} {self.table} {self.chain} {rule}"

    def __str__(self) -> str:
        return f"{self.family} {self.table} {self.chain}"


def of_nft(ruleset: str) -> list[Json]:
    """The entries of `nft -j list ruleset`; ValueError when it is none."""
    entries: list[Json] = json.loads(ruleset).get("nftables", [])
    return entries


def of_legacy(tool: str, rules: str) -> list[Json]:
    """What `iptables-legacy -S` or `ip6tables-legacy -S` prints, as nft would tell it, of a family called as the tool."""
    entries: list[Json] = []
    for line in rules.splitlines():
        kind, name, *words = shlex.split(line)
        place = {"family": tool, "table": "filter"}
        if kind == "-P":
            chain = {**place, "name": name, "hook": name.lower(), "policy": words[0].lower()}
            entries.append({"chain": chain})
        elif kind == "-A":
            entries.append({"rule": {**place, "chain": name, "expr": list(_expressions(words))}})
    return entries


def _expressions(words: list[str]) -> Iterator[Json]:
    rest, negated = iter(words), False
    for word in rest:
        if word == "!":
            negated = True
            continue
        if word in _NAMES:
            name = next(rest)
            wild = f"{name[:-1]}*" if name.endswith("+") else name
            left = {"meta": {"key": _NAMES[word]}}
            yield {"match": {"op": "!=" if negated else "==", "left": left, "right": wild}}
        elif word == "--physdev-is-bridged" and not negated:
            yield {"xt": {"name": "physdev"}}
        elif word == "-m":
            next(rest)  # what it matches follows
        elif word == "--comment":
            yield {"comment": next(rest)}
        elif word in {"-j", "-g"}:
            target = next(rest)
            jump = {"jump" if word == "-j" else "goto": {"target": target}}
            yield {_TARGETS[target]: None} if target in _TARGETS else jump
            return  # the target's own options follow
        else:
            yield {word: None}
        negated = False


def dropping(entries: Iterable[Json], bridge: str, filtered: Iterable[str]) -> tuple[Dropping, ...]:
    """The chains among `entries` that drop what goes from port to port of `bridge` where `filtered` is on."""
    entries = list(entries)
    families = {family for each in filtered for family in FAMILIES[each]}
    chains = [entry["chain"] for entry in entries if "chain" in entry]
    rules = [entry["rule"] for entry in entries if "rule" in entry]
    found = []
    for chain in chains:
        if chain.get("hook") != "forward" or chain.get("family") not in families:
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
            if kind == "return":
                return ""
            if kind in {"jump", "goto"} and depth < 8:
                target = {**chain, "name": expression[kind]["target"]}
                if (verdict := _verdict(target, rules, bridge, depth + 1)) or kind == "goto":
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
    named = any(
        name == bridge or (str(name).endswith("*") and bridge.startswith(name[:-1])) for name in names
    )
    return match.get("op") == "==" and key in {"iifname", "oifname", "ibrname", "obrname"} and named
