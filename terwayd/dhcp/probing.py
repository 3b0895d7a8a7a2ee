"""How the LAN is asked whether an address is free, before it is used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Probing:
    """How the LAN is asked whether an address is free (RFC 5227 section 2.1.1); times in seconds."""

    first: float = 0.0  # up to this long before the first probe
    count: int = 3
    least: float = 0.13
    most: float = 0.13
    wait: float = 0.14


FAST: Final = Probing()
FULL: Final = Probing(first=1.0, least=1.0, most=2.0, wait=2.0)
