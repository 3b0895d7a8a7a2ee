"""How the messages of all clients leave: as frames, to the LAN and to the node, DISCOVERs at a bounded rate."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import replace

from terwayd.dhcp import frame
from terwayd.dhcp.messages import Outgoing
from terwayd.dhcp.options import Kind
from terwayd.dhcp.outside import Transport, Watcher
from terwayd.dhcp.packet import BROADCAST, NO_ADDRESS, Message

log = logging.getLogger(__name__)


class Sender:
    """Sends through one transport; `waits_still` is set to say whether a DISCOVER that was held back is wanted yet."""

    def __init__(
        self,
        transport: Transport,
        *,
        clock: Callable[[], float],
        rate: int,
        watcher: Watcher | None,
    ) -> None:
        self.waits_still: Callable[[Outgoing], bool] = lambda _out: True
        self._transport = transport
        self._clock = clock
        self._bucket = Bucket(rate)
        self._watcher = watcher

    def limit(self, rate: int) -> None:
        """From now on send so many DISCOVERs a second at most."""
        self._bucket = Bucket(rate)

    @property
    def step(self) -> float:
        """Seconds from one DISCOVER to the next at full rate."""
        return self._bucket.step

    def send(self, messages: Iterable[Outgoing]) -> None:
        """Send what a client has to say, a DISCOVER when its turn has come."""
        for out in messages:
            if out.message.kind is Kind.DISCOVER and (wait := self._bucket.take(self._clock())) > 0:
                # The client's timers run from now on: what is held for longer than they wait is sent again,
                # and goes out once.
                asyncio.get_running_loop().call_later(wait, self._send_held, out)
            else:
                self.send_now(out)

    def _send_held(self, out: Outgoing) -> None:
        if self.waits_still(out):
            self.send_now(out)

    def send_now(self, out: Outgoing) -> None:
        """Send a message, and to the node itself and its pods where there is a way to them."""
        data = _frame(out)
        self._put(data, out)
        if self._watcher is not None and out.message.kind is not None:
            self._watcher.dhcp_message("sent", out.message.kind.name)
        if self._transport.has_local:
            # A server here broadcasts its answer, for us to hear it; on the LAN that would bother all.
            has_address = out.message.ciaddr != NO_ADDRESS
            heard = data if has_address else _frame(replace(out, message=_broadcast(out.message)))
            self._transport.send_local(heard, to_pod=has_address)

    def put_everywhere(self, data: bytes) -> None:
        """Send a frame to the LAN, to the node itself and to its pods."""
        self._put(data)
        if self._transport.has_local:
            self._transport.send_local(data, to_pod=False)

    def _put(self, data: bytes, out: Outgoing | None = None) -> None:
        try:
            self._transport.send(data)
        except OSError as error:
            # The client's own timer sends again; only a RELEASE is lost.
            kind = out.message.kind if out is not None else None
            name, mac = kind.name if kind else "ARP", data[6:12].hex(":")
            log.warning("%s of %s could not be sent: %s", name, mac, error.strerror or error)


class Bucket:
    """At most `rate` of something a second, and as many at once; says how long the next one is to wait."""

    def __init__(self, rate: int) -> None:
        self.step = 1 / rate
        self._burst = 1.0
        self._free_at = -math.inf

    def take(self, now: float) -> float:
        """Seconds that the one taken now must wait."""
        self._free_at = max(self._free_at, now - self._burst) + self.step
        return max(0.0, self._free_at - now)


def _frame(out: Outgoing) -> bytes:
    return frame.build(
        out.message.encode(),
        source_mac=out.message.chaddr,
        destination_mac=out.dst_mac,
        source=out.src_ip,
        destination=out.dst_ip,
    )


def _broadcast(message: Message) -> Message:
    return replace(message, flags=message.flags | BROADCAST)
