"""The events that the journal knows by a number, MESSAGE_ID; packaging/deb/terwayd.catalog explains each.

    log.info("%s is detached", pod, extra=about(DETACHED, pod))

gives the line the fields that `journalctl TERWAY_POD=default/web-0` asks for.  Where the log is not
the journal, they go nowhere.
"""

from __future__ import annotations

from typing import Final, Protocol

TAKEN_OVER: Final = "18f068e28c974c29b110d1c8388aa13b"
MENDED: Final = "c9f26d9b697e46abb7907aca2f5409b6"
NOT_READY: Final = "9c704280ea2f4e579e27f25d14fc0cbb"
ATTACHED: Final = "9f7b52095afd4db6bab554b2f8e5219d"
DETACHED: Final = "6decf121847e482dafaf1980fcd40b0a"
LEASE_LOST: Final = "78139430bca541c1a972714092c2ba82"
LEASE_BACK: Final = "25c4e736ac6b4cbcb23e8d1d34c2ac2b"
ADDRESS_CHANGED: Final = "ee900962ed5c4a63a71b7d664649445e"
ADDRESS_CONFLICT: Final = "d69ba036b5ef4324b776aaff03392320"
NO_ANSWER: Final = "d401e025a8a747ce8a383b60859602c6"
RELOADED: Final = "64cbefde48604980873dd05bb484cfc3"
NOT_RELOADED: Final = "e12029425a754e9898633a9008b2c3d0"
REFUSED: Final = "18397100bff34ea9b89a822a779fd920"


class Pod(Protocol):
    """What a line about a pod tells of it; its text is the pod's name."""

    @property
    def mac(self) -> str: ...


def about(event: str, pod: Pod | str = "", ip: object = "") -> dict[str, str]:
    """The fields of a line about `event`, of `pod` or of one whose name alone is known, with its address; for a
    log call's `extra`."""
    fields = {"MESSAGE_ID": event}
    if isinstance(pod, str):
        fields |= {"TERWAY_POD": pod} if pod else {}
    else:
        fields |= {"TERWAY_POD": str(pod), "TERWAY_MAC": pod.mac}
    if ip:
        fields["TERWAY_IP"] = str(ip)
    return fields
