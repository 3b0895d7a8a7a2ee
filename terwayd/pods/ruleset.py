"""What terwayd has nftables do, as text for `nft -f` and as the keys of its set.  Pure.

Two tables, both called terwayd, replaced in one transaction, where there are Services.  `bridge terwayd` keeps from pods
what the node's routing says to them; no rule of it is a pod's own: the pods are elements of a set, which changes with each
of them.  `inet terwayd` makes the way back of a Service's answer lead through this node again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from terwayd.model import NFT_TABLE
from terwayd.pods.sending import Port, mac_of

# Where the answer would go from backend to pod directly, as on one LAN it does, nobody knew the backend's address.
_RETURN_PATH = """
    chain return_path {{
        type nat hook postrouting priority srcnat + 10
        iifname "{bridge}" oifname "{bridge}" ct status dnat masquerade
    }}"""

_TO_PODS = """
    chain to_pods {
        type filter hook output priority 0
        oifname "tw*" icmp type redirect drop
    }
    chain back_to_the_sender {
        type filter hook forward priority 0
        meta pkttype { broadcast, multicast } oifname . ether saddr @macs drop
    }"""

MACS: Final = "macs"


def macs_of(ports: Iterable[Port]) -> set[bytes]:
    """The elements of the set: each port's name and MAC, filled to whole words."""
    return {port.name.encode().ljust(16, b"\0") + mac_of(port) + bytes(2) for port in ports}


def ruleset(bridge: str, ports: Iterable[Port]) -> str:
    """Both tables as they shall be where there are Services."""
    listed = ", ".join(f'"{port.name}" . {port.mac}' for port in sorted(ports, key=lambda port: port.name))
    elements = f"elements = {{ {listed} }}; " if listed else ""
    tables = {
        "bridge": f"\n    set {MACS} {{ type ifname . ether_addr; {elements}}}{_TO_PODS}",
        "inet": _RETURN_PATH.format(bridge=bridge),
    }
    return "".join(
        f"table {family} {NFT_TABLE}\ndelete table {family} {NFT_TABLE}\n"
        f"table {family} {NFT_TABLE} {{{body}\n}}\n"
        for family, body in tables.items()
    )


def in_words(bridge: str, *, services: bool, guarded: int | None) -> list[tuple[str, str]]:
    """For status: each table, and what its rules do."""
    told = []
    if services:
        told.append(
            (f"inet {NFT_TABLE}", f"what a Service sends back out of {bridge} gets the node's own address")
        )
        told.append((f"bridge {NFT_TABLE}", "no ICMP redirect goes to a pod"))
    if guarded is not None:
        what = f"{guarded} pod{'s' if guarded != 1 else ''}"
        told.append(("tc ingress", f"{what} held to their own MAC and leased addresses"))
    return told
