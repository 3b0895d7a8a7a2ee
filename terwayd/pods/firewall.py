"""The filters at the pods' ports and the node's rules, kept as they shall be: by each attach and detach, and against
other hands.

A doorbell rings after every transaction of nftables, another one after each change of traffic control that is not ours,
a third when an iptables of the old kind has given its lock back; whether anything of ours has become different is then
looked up.  Who changes rules of that kind without the lock is found out the next time that the daemon is awake for a pod.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import socket
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

from terwayd.clock import boottime
from terwayd.errors import KernelError, TerwayError
from terwayd.events import MENDED, about
from terwayd.host.drift import Limit
from terwayd.kernel import iptables, tc
from terwayd.kernel.monitor import Monitor
from terwayd.kernel.nftables import GROUP, NETLINK_NETFILTER, Chain, Nftables
from terwayd.kernel.watch import CLOSED, Watch
from terwayd.model import NFT_FAMILIES, NFT_TABLE
from terwayd.pods.filters import Filters
from terwayd.pods.ruleset import MACS, in_words, macs_of, ruleset
from terwayd.pods.sending import Port
from terwayd.pods.upkeep import Trouble

log = logging.getLogger(__name__)

T = TypeVar("T")

_INTERVAL = 30.0  # seconds between two looks for what no doorbell tells of


class Firewall:
    """The rules of one node.  What blocks says so; the rest is for the event loop's thread."""

    def __init__(self, bridge: str, *, antispoof: bool, on_repair: Callable[[str], None]) -> None:
        self._bridge = bridge
        self._antispoof = antispoof
        self.services = False
        """Whether Services are served, so that the way back of their answers matters."""
        self._on_repair = on_repair
        self._ports: dict[str, Port] = {}
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="nftables")
        self._alone = threading.Lock()  # over the socket, and what is known of the kernel's rules
        self._filters = Filters()
        self._socket: Nftables | None = None
        self._handles: dict[str, tuple[bytes, ...]] = {}
        self._generation = -1
        self._accepting: list[str] = []
        self._limit = Limit()
        self._rung = asyncio.Event()
        self._looked = 0.0  # boot time
        self._filters_rung = False
        self._bells: list[Monitor | Watch] = []
        self._unwatched = False
        self._keeping: asyncio.Task[None] | None = None
        self._trouble: tuple[Trouble, ...] = ()

    @property
    def trouble(self) -> tuple[Trouble, ...]:
        """What is not as it should be."""
        return self._trouble + self._filters.trouble

    def rules(self) -> list[tuple[str, str]]:
        """For status: where rules of ours stand, and what they do."""
        if self._keeping is None:
            return []
        guarded = sum(port.guarded for port in self._ports.values()) if self._antispoof else None
        told = in_words(self._bridge, services=self.services, guarded=guarded)
        accepts = f"what comes and leaves by {self._bridge} is accepted where the default is to drop"
        return told + [(place, accepts) for place in self._accepting]

    def dropped(self) -> dict[str, int]:
        """How many frames each guarded port has dropped, by its name, since the pod was attached.

        Blocking, in any thread; it waits for nothing that is done to the rules, and is no trouble where it fails.
        """
        try:
            with tc.TrafficControl() as control:
                drops = control.drops()
        except (KernelError, OSError):
            return {}
        return self._filters.dropped(drops)

    async def up(self, ports: Iterable[Port] = (), *, services: bool) -> None:
        """Have the rules, for these pods besides those that were admitted, and keep them."""
        self._ports |= {port.name: self._found(port) for port in ports}
        self.services = self.services or services
        if not self._bells:
            self._bells.append(Monitor(self._rung.set, NETLINK_NETFILTER, GROUP))
            self._bells.append(Monitor(self._ring_filters, groups=tc.GROUP, deaf_to=self._filters.port_id))
            try:
                self._bells.append(Watch([iptables.LOCK], CLOSED, self._rung.set))
            except OSError as error:
                self._unwatched = True
                log.warning("rules of iptables-legacy are looked at every %.0f s: %s", _INTERVAL, error)
        await self._do(self._load)
        if self._keeping is None:
            self._keeping = asyncio.get_running_loop().create_task(self._keep())

    def glance(self) -> None:
        """The daemon is awake: have what no doorbell tells of looked at, unless that was done a moment ago."""
        if boottime() - self._looked >= _INTERVAL:
            self._rung.set()

    def serve(self) -> None:
        """There are Services from now on.  Blocking, in any thread."""
        with self._alone:
            if not self.services:
                self.services = True
                self._guarded(self._load_alone)

    def admit(self, port: Port) -> None:
        """Have a pod's port hold to what `port` says, from the time when this returns.  Blocking, in any thread."""
        with self._alone:
            before = macs_of(self._of_pod(port.pod))
            self._ports[port.name] = self._found(port)
            self._change(before, self._of_pod(port.pod))

    def dismiss(self, name: str) -> None:
        """Forget a port that is gone.  Blocking, in any thread."""
        with self._alone:
            if (port := self._ports.get(name)) is not None:
                before = macs_of(self._of_pod(port.pod))
                del self._ports[name]
                self._filters.forget(name)
                self._change(before, self._of_pod(port.pod))

    def down(self) -> None:
        """Keep nothing any more; what is there stays."""
        for bell in self._bells:
            bell.close()
        self._bells.clear()
        self._unwatched = False
        if self._keeping is not None:
            self._keeping.cancel()
        self._keeping = None
        self._trouble = ()

    def close(self) -> None:
        self.down()
        self._thread.shutdown(wait=True)
        self._filters.close()
        if self._socket is not None:
            self._socket.close()

    # What blocks.

    @property
    def _nftables(self) -> Nftables:
        if self._socket is None:
            self._socket = Nftables()
        return self._socket

    def _of_pod(self, pod: str) -> list[Port]:
        return [port for port in self._ports.values() if port.pod == pod]

    def _found(self, port: Port) -> Port:
        """With the index of its interface; 0 where that is not there yet, or not any more."""
        index = 0
        with contextlib.suppress(OSError):
            index = socket.if_nametoindex(port.name)
        return replace(port, index=index)

    def _change(self, before: set[bytes], ports: list[Port]) -> None:
        self._filters.hold(ports)
        after = macs_of(ports)
        if before == after or not self.services:
            return
        try:
            self._nftables.change("bridge", NFT_TABLE, {MACS: before - after}, {MACS: after - before})
            self._generation += 1
        except (KernelError, OSError):
            self._guarded(self._load_alone)  # somebody else was at it

    def _guarded(self, work: Callable[[], T]) -> T | None:
        """`work`; what the kernel refuses is the node's trouble, and not the pod's."""
        try:
            return work()
        except (TerwayError, OSError) as error:
            message, hint = str(error), getattr(error, "hint", "") or "nft list ruleset"
            if message not in {trouble.message for trouble in self._trouble}:
                log.error("%s", message)
            self._trouble = (Trouble("rules", "error", message, hint),)
            return None

    def _load(self) -> None:
        with self._alone:
            self._load_alone()

    def _load_alone(self) -> None:
        """All of it anew, in one transaction; where an earlier run's rules stand, the pods in their sets only.

        The kernel shows new rules a moment before the elements of their sets: a packet of that moment is lost.
        """
        ports = self._ports.values()
        self._filters.hold(ports)
        self._generation = self._nftables.generation()
        self._handles = self._standing_handles()
        if not self.services:
            for family in NFT_FAMILIES:
                self._nftables.delete_table(family, NFT_TABLE)
            self._handles = {}
        elif self._mark() in self._nftables.chains("bridge", NFT_TABLE):
            have, wanted = self._nftables.keys("bridge", NFT_TABLE, MACS), macs_of(ports)
            if have != wanted:
                self._nftables.change("bridge", NFT_TABLE, {MACS: have - wanted}, {MACS: wanted - have})
                self._generation += 1
        else:
            self._nftables.load(ruleset(self._bridge, ports))
            self._handles = self._standing_handles()
            self._nftables.load(f"add chain bridge {NFT_TABLE} {self._mark()}\n")
            self._generation += 2
        self._settle()

    def _standing_handles(self) -> dict[str, tuple[bytes, ...]]:
        return {family: self._nftables.rules(family, NFT_TABLE) for family in NFT_FAMILIES}

    def _mark(self) -> str:
        """The name of an empty chain that says of what text the rules are, and that they are those still."""
        text = ruleset(self._bridge, ())
        handles = b"".join(b"".join(self._handles[family]) for family in NFT_FAMILIES)
        return f"as_{hashlib.sha256(text.encode() + handles).hexdigest()[:16]}"

    def _settle(self) -> list[str]:
        """Others' rules: what was changed there."""
        chains = self._nftables.forwarding()
        self._accepting, changed = iptables.settle(self._bridge, chains)
        trouble = [
            _dropped(chain, self._bridge) for chain in chains if chain.drops and not iptables.has(chain)
        ]
        self._trouble = tuple(trouble)
        return changed

    def _look(self) -> list[str]:
        """What had become different, and is mended now."""
        with self._alone:
            changed = []
            if self._filters_rung or self._filters.trouble:
                self._filters_rung = False
                changed = [f"the filter of {name} was not what it shall be" for name in self._filters.mend()]
            generation = self._nftables.generation()
            if generation != self._generation:
                if not self._stands():
                    self._load_alone()
                    return [*changed, f"rules of the nftables tables {NFT_TABLE} were gone"]
                self._generation = generation
            return changed + self._settle()

    def _stands(self) -> bool:
        for family in NFT_FAMILIES:
            if self._nftables.rules(family, NFT_TABLE) != self._handles.get(family, ()):
                return False
        wanted = macs_of(self._ports.values()) if self.services else set()
        return self._nftables.keys("bridge", NFT_TABLE, MACS) == wanted

    # In the event loop.

    async def _do(self, work: Callable[[], T]) -> T | None:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._guarded, work)

    def _ring_filters(self) -> None:
        self._filters_rung = True
        self._rung.set()

    async def _keep(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._rung.wait(), _INTERVAL if self._unwatched else None)
            self._rung.clear()
            self._looked = boottime()
            for words in await self._do(self._look) or ():
                log.warning("mended: %s", words, extra=about(MENDED))
                self._on_repair(words)
                if self._limit.reached(boottime()):
                    log.error("%s, again and again: looked at every %.0f s for now", words, _INTERVAL)
                    await asyncio.sleep(_INTERVAL)


def _dropped(chain: Chain, bridge: str) -> Trouble:
    where = f"{chain.family} {chain.table} {chain.name}"
    return Trouble(
        "forward-dropped",
        "warning",
        f"the nftables chain {where} drops by default: pods may reach no Service, and with br_netfilter nobody",
        f'nft insert rule {where} iifname "{bridge}" oifname "{bridge}" accept',
    )
