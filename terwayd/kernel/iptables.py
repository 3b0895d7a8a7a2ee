"""The one rule among those of iptables: what comes by the bridge and leaves by it is not dropped by default.

An accept in a table of our own does not help against another's DROP, so the rule stands where that is, and only
there: in DOCKER-USER where Docker has it looked at first, else in FORWARD.  Blocking.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

from terwayd.errors import KernelError
from terwayd.kernel.nftables import Chain

LOCK = "/run/xtables.lock"
"""What an iptables of the old kind, and whoever has it do something, holds while it changes a rule."""
_COMMENT = "terwayd"
_USER = "DOCKER-USER"
_LEGACY = {"iptables-legacy": "/proc/net/ip_tables_names", "ip6tables-legacy": "/proc/net/ip6_tables_names"}
_NFT = {"ip": "iptables-nft", "ip6": "ip6tables-nft"}


def rule(bridge: str) -> list[str]:
    return ["-i", bridge, "-o", bridge, "-m", "comment", "--comment", _COMMENT, "-j", "ACCEPT"]


def changes(forward: str, user: str, bridge: str, *, wanted: bool) -> tuple[str, list[list[str]]]:
    """The chain that shall have the rule, "" for none, and what iptables has to be told.

    `forward` and `user` are `iptables -S` of FORWARD and of DOCKER-USER.  Pure.
    """
    drops = re.search(r"^-P FORWARD DROP$|^-A FORWARD -j (DROP|REJECT)\b", forward, re.MULTILINE)
    first = _USER if re.search(rf"^-A FORWARD -j {_USER}$", forward, re.MULTILINE) and user else "FORWARD"
    place = first if drops and wanted else ""
    ours = " ".join(rule(bridge))
    have = [
        chain
        for chain, text in (("FORWARD", forward), (_USER, user))
        if f"-A {chain} {ours}" in text.split("\n")
    ]
    told = [["-D", chain, *rule(bridge)] for chain in have if chain != place]
    return place, ([["-I", place, *rule(bridge)]] if place and place not in have else []) + told


def has(chain: Chain) -> bool:
    """Whether the chain is iptables' own FORWARD."""
    return chain.family in _NFT and (chain.table, chain.name) == ("filter", "FORWARD")


def settle(bridge: str, chains: Iterable[Chain], *, wanted: bool = True) -> tuple[list[str], list[str]]:
    """Have the rule where something is dropped, and nowhere else: where it stands, and what was changed for that.

    `chains` are all those of nftables for what is forwarded, iptables' among them.
    KernelError when iptables refuses, or a table of its is there without the command.
    """
    stands, changed = [], []
    for tool in _in_use(chains):
        forward, user = _list(tool, "FORWARD"), _list(tool, _USER)
        place, commands = changes(forward, user, bridge, wanted=wanted)
        for command in commands:
            _run(tool, *command)
            changed.append(f"{tool} {' '.join(command)}")
        if place:
            stands.append(f"{tool} {place}")
    return stands, changed


def _in_use(chains: Iterable[Chain]) -> list[str]:
    return [_NFT[chain.family] for chain in chains if has(chain)] + legacy_in_use()


def legacy_in_use() -> list[str]:
    """The commands of old that have a table of filters in this network namespace."""
    found = []
    for tool, names in _LEGACY.items():
        with contextlib.suppress(OSError):
            found += [tool] * ("filter" in Path(names).read_text().split())
    return found


def _list(tool: str, chain: str) -> str:
    try:
        return _run(
            tool, "-S", chain, XTABLES_LOCKFILE=os.devnull
        )  # reading needs no lock, and rings no bell
    except KernelError as error:
        if error.errno == errno.ENOENT and chain == _USER:
            return ""
        raise


def _run(tool: str, *arguments: str, **environment: str) -> str:
    command = [tool, "-w", "5", *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=os.environ | environment
        )
    except OSError as error:
        raise KernelError(f"{tool}: {error.strerror}", errno.ENOEXEC, hint="apt install iptables") from None
    if done.returncode != 0:
        number = errno.ENOENT if arguments[0] == "-S" else errno.EINVAL
        raise KernelError(f"{' '.join(command)}: {' '.join(done.stderr.split())[:200]}", number)
    return done.stdout
