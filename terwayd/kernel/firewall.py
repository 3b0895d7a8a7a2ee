"""Taking the node's rules away again, also where no daemon runs that knows them.  Blocking."""

from __future__ import annotations

import contextlib
import logging

from terwayd.errors import KernelError
from terwayd.kernel import iptables
from terwayd.kernel.nftables import Nftables
from terwayd.model import NFT_FAMILIES, NFT_TABLE

log = logging.getLogger(__name__)


def remove(bridge: str) -> None:
    """Remove all rules of ours; what cannot be is told, and is no reason to keep the host."""
    try:
        with contextlib.closing(Nftables()) as nftables:
            for family in NFT_FAMILIES:
                nftables.delete_table(family, NFT_TABLE)
            iptables.settle(bridge, nftables.forwarding(), wanted=False)
    except (KernelError, OSError) as error:
        log.warning("rules of terwayd stay in the kernel: %s", error)
