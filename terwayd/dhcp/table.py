"""The states of a DHCP client and what leads from one to the next (RFC 2131 section 4.4, figure 5).

Only the table: what a transition does is named here and done by `client`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


class State(enum.Enum):
    """RFC 2131 figure 5, PROBING while the LAN is asked by ARP (RFC 5227), RELEASED for a client that has ended."""

    INIT = "init"
    SELECTING = "selecting"
    REQUESTING = "requesting"
    PROBING = "probing"
    BOUND = "bound"
    RENEWING = "renewing"
    REBINDING = "rebinding"
    INIT_REBOOT = "init-reboot"
    REBOOTING = "rebooting"
    RELEASED = "released"


class Input(enum.Enum):
    """All that can happen to a client."""

    START = "started without a lease"
    RESTORE = "started with a lease whose T1 has not come"
    VERIFY = "started with a lease whose T1 has passed"
    WAITED = "the pause is over"
    OFFER = "a usable OFFER"
    ASIDE = "a usable OFFER of another address than the one asked for"
    ACK = "a usable ACK"
    CANDIDATE = "a usable ACK for an address that is to be probed first"
    CONFLICT = "somebody else has the address"
    NAK = "a NAK"
    RESEND = "no answer in time"
    EXHAUSTED = "no answer to any attempt"
    T1 = "time to renew"
    T2 = "time to rebind"
    EXPIRED = "the lease has ended"
    RELEASE = "the address is given back"


class Do(enum.Enum):
    """What a transition does, besides changing the state."""

    OPEN = "begin a new transaction: new xid, secs from 0, attempts from 0"
    DISCOVER = "broadcast a DISCOVER"
    AWAIT = "wait a moment for a better OFFER"
    REQUEST = "broadcast a REQUEST for the offer"
    VERIFY = "broadcast a REQUEST for the restored address"
    RENEW = "send a REQUEST to the server that gave the lease"
    REBIND = "broadcast a REQUEST from the leased address"
    RELEASE = "send a RELEASE"
    SPREAD = "pause for a random moment"
    PAUSE = "pause, longer with each NAK"
    PROBE = "ask the LAN by ARP who has the address"
    DECLINE = "send a DECLINE"
    BACK_OFF = "pause for ten seconds"
    BIND = "take the lease"
    LOSE = "drop the lease: its time is over"
    REFUSED = "drop the lease, if any: the server said NAK"
    COMPLAIN = "tell that nobody answers"


@dataclass(frozen=True, slots=True)
class Go:
    """One cell of the table: the next state and what to do, in this order, once in it."""

    to: State
    do: tuple[Do, ...] = ()


# The rules of the table.
# - A row is a state, a cell what happens on an input.  An input that a row lacks changes nothing: RFC 2131
#   figure 5 says "discard" for messages, and a timer is only armed in states that have a cell for it.
# - Messages come here after `_kind_of`: xid, chaddr, client-id and server are right, and the lease in it is usable.
# - Of several timers that are due only the gravest is an input: EXPIRED before T2 before T1 before RESEND.
# - No cell waits: INIT and INIT_REBOOT end with WAITED, which may be due at once.
TABLE: Final[Mapping[State, Mapping[Input, Go]]] = {
    State.INIT: {
        Input.START: Go(State.SELECTING, (Do.OPEN, Do.DISCOVER)),
        Input.RESTORE: Go(State.BOUND),
        Input.VERIFY: Go(State.INIT_REBOOT, (Do.SPREAD,)),
        Input.WAITED: Go(State.SELECTING, (Do.OPEN, Do.DISCOVER)),
        Input.EXPIRED: Go(State.INIT, (Do.LOSE,)),
        Input.RELEASE: Go(State.RELEASED),
    },
    State.SELECTING: {
        Input.OFFER: Go(State.REQUESTING, (Do.REQUEST,)),
        Input.ASIDE: Go(State.SELECTING, (Do.AWAIT,)),  # then it is an OFFER like any other
        Input.ACK: Go(State.BOUND, (Do.BIND,)),  # only with rapid commit (RFC 4039)
        Input.CANDIDATE: Go(State.PROBING, (Do.PROBE,)),
        Input.CONFLICT: Go(State.INIT, (Do.DECLINE, Do.BACK_OFF)),
        Input.RESEND: Go(State.SELECTING, (Do.DISCOVER,)),
        Input.EXHAUSTED: Go(State.SELECTING, (Do.COMPLAIN, Do.DISCOVER)),
        Input.RELEASE: Go(State.RELEASED),
    },
    State.REQUESTING: {
        Input.ACK: Go(State.BOUND, (Do.BIND,)),
        Input.CANDIDATE: Go(State.PROBING, (Do.PROBE,)),
        Input.CONFLICT: Go(State.INIT, (Do.DECLINE, Do.BACK_OFF)),  # this host itself knows who has it
        Input.NAK: Go(State.INIT, (Do.REFUSED, Do.PAUSE)),
        Input.RESEND: Go(State.REQUESTING, (Do.REQUEST,)),
        Input.EXHAUSTED: Go(State.SELECTING, (Do.COMPLAIN, Do.OPEN, Do.DISCOVER)),
        # The server may have committed the address already, its ACK being on the way.
        Input.RELEASE: Go(State.RELEASED, (Do.RELEASE,)),
    },
    State.PROBING: {
        Input.RESEND: Go(State.PROBING, (Do.PROBE,)),
        Input.EXHAUSTED: Go(State.BOUND, (Do.BIND,)),  # nobody has it
        Input.CONFLICT: Go(State.INIT, (Do.DECLINE, Do.BACK_OFF)),
        Input.RELEASE: Go(State.RELEASED, (Do.RELEASE,)),
    },
    State.BOUND: {
        Input.T1: Go(State.RENEWING, (Do.OPEN, Do.RENEW)),
        Input.T2: Go(State.REBINDING, (Do.OPEN, Do.REBIND)),
        Input.EXPIRED: Go(State.INIT, (Do.LOSE,)),
        Input.RELEASE: Go(State.RELEASED, (Do.RELEASE,)),
    },
    State.RENEWING: {
        Input.ACK: Go(State.BOUND, (Do.BIND,)),
        Input.NAK: Go(State.INIT, (Do.REFUSED, Do.PAUSE)),
        Input.RESEND: Go(State.RENEWING, (Do.RENEW,)),
        # The transaction goes on, so that an ACK that is late for the renewal still counts.
        Input.T2: Go(State.REBINDING, (Do.COMPLAIN, Do.REBIND)),
        Input.EXPIRED: Go(State.INIT, (Do.LOSE,)),
        Input.RELEASE: Go(State.RELEASED, (Do.RELEASE,)),
    },
    State.REBINDING: {
        Input.ACK: Go(State.BOUND, (Do.BIND,)),
        Input.NAK: Go(State.INIT, (Do.REFUSED, Do.PAUSE)),
        Input.RESEND: Go(State.REBINDING, (Do.REBIND,)),
        Input.EXPIRED: Go(State.INIT, (Do.LOSE,)),
        Input.RELEASE: Go(State.RELEASED, (Do.RELEASE,)),
    },
    State.INIT_REBOOT: {
        Input.WAITED: Go(State.REBOOTING, (Do.OPEN, Do.VERIFY)),
        Input.EXPIRED: Go(State.INIT, (Do.LOSE,)),
        Input.RELEASE: Go(State.RELEASED, (Do.RELEASE,)),
    },
    State.REBOOTING: {
        Input.ACK: Go(State.BOUND, (Do.BIND,)),
        Input.NAK: Go(State.INIT, (Do.REFUSED, Do.PAUSE)),
        Input.RESEND: Go(State.REBOOTING, (Do.VERIFY,)),
        # RFC 2131 section 3.2: nobody answers, the lease has not ended: go on using it (T1 follows at once).
        Input.EXHAUSTED: Go(State.BOUND, (Do.COMPLAIN,)),
        Input.EXPIRED: Go(State.INIT, (Do.LOSE,)),
        Input.RELEASE: Go(State.RELEASED, (Do.RELEASE,)),
    },
    State.RELEASED: {},
}
