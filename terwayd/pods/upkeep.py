"""What a pod's interface has, kept in step with its lease after the ADD.

The policy for an address whose lease is over, [pods] lost_lease: "keep" leaves it until a server gives the
pod another one; "replace" takes it off at once and puts the next one on; "down" takes the link down until
the same address is leased again.  A lease that goes on with another mask, router or MTU is followed with
any of them.  What cannot be as it was is a Trouble, which status and CHECK tell.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Interface
from typing import TypeVar

from terwayd.dhcp.lease import Lease
from terwayd.dhcp.outcome import Bound, Conflict, Event, Lost, NoAnswer, Renewed
from terwayd.errors import CniError, TerwayError
from terwayd.events import ADDRESS_CHANGED, ADDRESS_CONFLICT, LEASE_BACK, LEASE_LOST, NO_ANSWER, about
from terwayd.kernel import netns
from terwayd.kernel.worker import Worker
from terwayd.model import IPNetwork
from terwayd.pods import veth
from terwayd.pods.identity import Attachment, Key
from terwayd.pods.veth import Inside
from terwayd.tasks import Tasks

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Trouble:
    """What is not as the pod's ADD left it; `code` is status's."""

    code: str
    severity: str
    message: str
    hint: str


@dataclass(slots=True)
class _Has:
    """A pod's interface: what it has, or had before it was taken off; `told` is the ADD's address.

    `led` are the destinations for which it stood before the pod's other interfaces when it was last changed.
    """

    known: Attachment
    inside: Inside
    told: IPv4Interface
    address_on: bool = True
    link_up: bool = True
    reason: str = ""
    silent: bool = False
    failed: str = ""
    conflict: str = ""
    busy: bool = False
    led: frozenset[IPNetwork] = frozenset()


class Upkeep:
    """Every attached pod's interface and the lease it should follow."""

    def __init__(
        self,
        policy: str,
        *,
        worker: Worker,
        lease_of: Callable[[Key], Lease | None],
        inside_of: Callable[[Attachment, Lease], Inside],
        written: Callable[[Attachment, Lease], None],
        announce: Callable[[Key], None],
        allow: Callable[..., None],
        on_change: Callable[[], None],
    ) -> None:
        self._policy = policy
        self._announce = announce
        self._allow = allow
        self._worker = worker
        self._lease_of = lease_of
        self._inside_of = inside_of
        self._written = written
        self._on_change = on_change
        self._has: dict[Key, _Has] = {}
        self._tasks = Tasks()

    def attached(self, known: Attachment, lease: Lease) -> None:
        """The pod has what `lease` says."""
        self._has[known.key] = _Has(known, self._inside_of(known, lease), lease.address)

    def detached(self, key: Key) -> None:
        self._has.pop(key, None)

    def follow(self, policy: str) -> None:
        """From now on `policy`, and what inside_of says by now."""
        self._policy = policy
        for has in self._has.values():
            self._tasks.start(self._settle(has))

    def on_event(self, key: Key, event: Event) -> None:
        """Follow what happened to the lease of `key`."""
        has = self._has.get(key)
        if has is None:
            return
        match event:
            case Lost(reason, lease):
                has.reason = reason
                told = about(LEASE_LOST, has.known, lease.address.ip)
                log.error("%s: %s; policy: %s", has.known, reason, self._policy, extra=told)
                self._written(has.known, lease)  # it is what the pod had, and asks for again
            case NoAnswer(_, reason):
                has.silent = True
                told = about(NO_ANSWER, has.known, has.inside.address.ip)
                log.warning("%s: %s", has.known, reason, extra=told)
            case Conflict(lease, mac):
                has.conflict = f"{mac.hex(':')} uses {lease.address.ip} too"
                told = about(ADDRESS_CONFLICT, has.known, lease.address.ip)
                log.error("%s: %s", has.known, has.conflict, extra=told)
            case Bound(lease) | Renewed(lease, _):
                if isinstance(event, Renewed) and (changes := _changes(event.previous, lease)):
                    log.info("%s: with its renewal came %s", has.known, changes)
                if has.reason:
                    told = about(LEASE_BACK, has.known, lease.address.ip)
                    log.warning("%s has a lease again: %s", has.known, lease.address, extra=told)
                has.reason, has.silent, has.conflict = "", False, ""
                self._written(has.known, lease)
        self._tasks.start(self._settle(has))
        self._on_change()

    def inside(self, key: Key) -> Inside | None:
        """What the pod's interface has; None for a pod that is not attached yet."""
        has = self._has.get(key)
        return None if has is None else has.inside

    def trouble(self, key: Key) -> Trouble | None:
        """What is wrong with the pod's address, if anything is."""
        has = self._has.get(key)
        if has is None:
            return None
        pod, ip, hint = has.known, has.inside.address.ip, "journalctl -u terwayd"
        if has.failed:
            return Trouble("address-stale", "error", f"{pod}: {has.failed}", "delete the pod")
        if has.reason and self._lease_of(key) is None:
            state = (
                "is kept"
                if has.address_on and has.link_up
                else "is off"
                if has.link_up
                else "is down with it"
            )
            return Trouble("lease-lost", "error", f"{pod}: {has.reason}; the address {state}", hint)
        if has.conflict:
            return Trouble("address-conflict", "error", f"{pod}: {has.conflict}", "find that station")
        if not has.link_up:
            message = f"{pod} is down: {ip} is not its address any more"
            return Trouble("lease-lost", "error", message, "delete the pod: a new one gets a new address")
        if has.inside.address != has.told:
            message = f"{pod} has {has.inside.address} in place of {has.told}, which its runtime knows"
            return Trouble("address-changed", "warning", message, "delete the pod, where that matters")
        return None

    def without_server(self) -> list[str]:
        """The pods whose lease is over and whom no server answers."""
        return [str(has.known) for key, has in self._has.items() if has.silent and not self._lease_of(key)]

    async def _settle(self, has: _Has) -> None:
        """Lead the interface to what it should have now; one of these at a time for each pod."""
        if has.busy:
            return
        has.busy = True
        try:
            while self._has.get(has.known.key) is has:
                wanted = self._wanted(has)
                if wanted == (has.inside, has.address_on, has.link_up):
                    return
                await self._change(has, *wanted)
                has.failed = ""
        except (TerwayError, OSError) as error:
            has.failed = f"its interface could not follow its lease: {error}"
            log.error("%s: %s", has.known, has.failed)
        finally:
            has.busy = False
            self._on_change()

    def _wanted(self, has: _Has) -> tuple[Inside, bool, bool]:
        """What the interface should have, and whether address and link should be on."""
        lease = self._lease_of(has.known.key)
        if lease is None:
            on = self._policy == "keep"
            return has.inside, on, self._policy != "down"
        wanted = self._inside_of(has.known, lease)
        if self._policy == "down" and wanted.address.ip != has.told.ip:
            return has.inside, False, False
        return wanted, True, True

    async def _change(self, has: _Has, wanted: Inside, address_on: bool, link_up: bool) -> None:
        known = has.known
        if not link_up and has.link_up:  # from the host's side: the pod's namespace need not be there
            await self._worker.call(lambda netlink: netlink.set_link(known.host_ifname, state="down"))
            has.link_up = False
        if (wanted, address_on) != (has.inside, has.address_on) and not (not link_up and not address_on):
            before = has.inside if has.address_on else None
            after = wanted if address_on else None
            goes, comes = ({inside.address.ip} if inside is not None else set() for inside in (before, after))
            await self._worker.call(lambda _: self._allow(known, *(goes | comes)))
            has.led = await self._inside(known, lambda: veth.change(known, before, after, has.led))
            await self._worker.call(lambda _: self._allow(known, *comes))
            if after is not None and after.address != has.inside.address:
                told, old = about(ADDRESS_CHANGED, known, after.address.ip), has.inside.address
                log.warning("%s has %s in place of %s", known, after.address, old, extra=told)
        if link_up and not has.link_up:
            await self._worker.call(lambda netlink: netlink.set_link(known.host_ifname, state="up"))
        fresh = address_on and (wanted.address != has.inside.address or not has.address_on)
        has.inside, has.address_on, has.link_up = wanted, address_on, link_up
        if fresh:
            self._announce(known.key)

    async def _inside(self, known: Attachment, work: Callable[[], T]) -> T:
        """Run in the pod's namespace, found by the runtime's path: holding it open would keep it alive."""
        try:
            descriptor = os.open(known.netns, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise CniError(3, f"{known.netns} cannot be entered: {error.strerror}") from None
        with contextlib.ExitStack() as stack:
            stack.callback(os.close, descriptor)
            netns.require(descriptor, known.netns)
            return await netns.run(descriptor, work)


def _changes(before: Lease, after: Lease) -> str:
    """What else a server says than it did, "" when it says the same."""
    return ", ".join(
        f"{name} {_shown(new)} in place of {_shown(old)}"
        for name in ("server", "routers", "routes", "dns", "domain", "search", "mtu", "ntp")
        if (new := getattr(after, name)) != (old := getattr(before, name))
    )


def _shown(value: object) -> str:
    """A value of a lease for the journal."""
    if isinstance(value, tuple):
        return " ".join(_shown(item) for item in value) or "none"
    return "none" if value in (None, "") else str(value)
