"""What a DHCP client sent and what came back, counted for the error texts that people read.

Not a log: it holds a few numbers since the last success, and one sentence can be made of them.
"""

from __future__ import annotations

from collections import Counter

from terwayd.dhcp import options as opt
from terwayd.dhcp.options import Code, Kind
from terwayd.dhcp.packet import Message

_STRAYS = 4  # kinds of them that are told; a LAN may have any number
_ANSWERS = {Kind.DISCOVER: Kind.OFFER, Kind.REQUEST: Kind.ACK}


class Journal:
    """Counts of one exchange with the servers; `now` is the latest time it was told."""

    def __init__(self) -> None:
        self.now = 0.0
        self.about = ""  # what the REQUESTs were for
        self._since = 0.0
        self._sent: Counter[Kind] = Counter()
        self._received: Counter[Kind] = Counter()
        self._refused = ""
        self.nak = ""  # what the last NAK said
        self._strays: Counter[tuple[Kind, str]] = Counter()

    def start(self, now: float) -> None:
        """Forget everything: a new exchange begins."""
        self._since = self.now = now
        self.about = self._refused = self.nak = ""
        self._sent.clear()
        self._received.clear()
        self._strays.clear()

    def sent(self, message: Message) -> None:
        """Count a message that went out."""
        if message.kind is not None:
            self._sent[message.kind] += 1

    def received(self, message: Message) -> None:
        """Count a message that came in and was meant for this client."""
        if message.kind is not None:
            self._received[message.kind] += 1
        if message.kind is Kind.NAK:
            self.nak = opt.text(message.options.get(Code.MESSAGE, b""))[:200]

    def stray(self, message: Message, why: str) -> None:
        """Count a message that was not taken as one for this client, by what was wrong with it."""
        server = f" of {message.server}" if message.server is not None else ""
        stray = (message.kind or Kind.ACK, f"{server}: {why}")
        if stray in self._strays or len(self._strays) < _STRAYS:
            self._strays[stray] += 1

    def refused(self, message: Message, why: str) -> None:
        """Note why the last message could not be used."""
        name = message.kind.name if message.kind is not None else "message"
        server = f" of {message.server}" if message.server is not None else ""
        self._refused = f"the {name}{server} cannot be used, {why}"

    def in_use(self, address: object, mac: bytes) -> None:
        """Note that another station has the address that a server gave."""
        self._refused = f"{address} was declined: {mac.hex(':')} has it"

    def summary(self, now: float | None = None) -> str:
        """For example "3 DISCOVERs sent in 10 s, no OFFER came back"."""
        seconds = max(0.0, (self.now if now is None else now) - self._since)
        parts: list[str] = []
        for kind, answer in _ANSWERS.items():
            if not self._sent[kind]:
                continue
            about = f" for {self.about}" if kind is Kind.REQUEST and self.about else ""
            time = "" if parts else f" in {seconds:.0f} s"
            came = [_count(self._received[answer], answer)]
            if kind is Kind.REQUEST and self._received[Kind.NAK]:
                came = [_count(self._received[Kind.NAK], Kind.NAK)]
                if self.nak:
                    came.append(f'("{self.nak}")')
            parts.append(f"{_count(self._sent[kind], kind)}{about} sent{time}, {' '.join(came)} came back")
        text = "; ".join(parts) or "nothing was sent yet"
        strays = [f"not taken: {_count(n, kind)}{what}" for (kind, what), n in self._strays.items()]
        return "; ".join([text, *strays, *([self._refused] if self._refused else [])])

    @property
    def silent(self) -> bool:
        """True when nothing at all came back."""
        return not self._received and not self._strays


def _count(number: int, kind: Kind) -> str:
    return f"no {kind.name}" if number == 0 else f"1 {kind.name}" if number == 1 else f"{number} {kind.name}s"
