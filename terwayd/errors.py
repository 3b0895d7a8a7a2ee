"""The errors of terwayd, sorted by who must act on them.

Each carries what failed, with what and why as its message, and the next command to type or the
thing to change as its hint.  Nothing here knows how an error is shown; the CNI code is the one
that the specification gives to the case (CNI specification 1.1.0, section 5 "Error").
"""

from __future__ import annotations


class TerwayError(Exception):
    """Something failed that a user can be told about in one line.

    `message` says what failed, with what and why; `hint`, when not empty, what to do next;
    `cni_code` is what a CNI runtime sees when the error ends a CNI call.
    """

    cni_code = 999

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ConfigError(TerwayError):
    """The administrator's configuration is wrong; the message names the key."""

    cni_code = 7


class HostError(TerwayError):
    """The host cannot be taken over, or something on it does not answer."""

    cni_code = 50


class Refused(HostError):
    """The uplink is of a kind that must not be taken over; nothing was changed."""


class RolledBack(HostError):
    """A takeover failed half-way and was undone; the host is as it was."""


class KernelError(TerwayError):
    """A netlink request was refused; `errno` is the kernel's reason."""

    cni_code = 5

    def __init__(self, message: str, errno: int, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.errno = errno


class DhcpError(TerwayError):
    """The LAN's DHCP server gave no usable lease; the runtime may try again."""

    cni_code = 11


class StoreError(TerwayError):
    """The state database cannot be used."""

    cni_code = 5


class NewerState(StoreError):
    """The state database is of a newer terwayd."""


class CniError(TerwayError):
    """A CNI call that cannot be served; `code` as in section 5 of the specification."""

    def __init__(self, code: int, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.cni_code = code


class DaemonUnavailable(TerwayError):
    """The socket of terwayd does not answer."""

    cni_code = 11
