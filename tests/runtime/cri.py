"""containerd's CRI as kubelet calls it, as much of it as concerns a pod's network.

gRPC by curl, and the protocol buffers by hand: a dozen fields do not need a client library.  Field
numbers are those of runtime/v1/api.proto (Kubernetes).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import unquote

from tests.lab import LabError
from tests.runtime import cgroup
from tests.runtime.containerd import SOCKET, Containerd


class CriError(LabError):
    """A call failed; the message is what kubelet would log and show in the pod's events."""


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition of the runtime, such as NetworkReady."""

    status: bool
    reason: str
    message: str


class Cri:
    """The runtime service of a containerd."""

    def __init__(self, containerd: Containerd) -> None:
        self._node = containerd.node
        self._numbers = itertools.count()

    def network_ready(self) -> Condition:
        """What makes a Kubernetes node Ready or not, as far as the network goes."""
        for condition in strings(strings(self._call("Status"), 1)[0], 1):
            if text(condition, 1) == "NetworkReady":
                status = any(number == 2 and value for number, value in fields(condition))
                return Condition(status, text(condition, 3), text(condition, 4))
        raise LabError("the runtime told no condition NetworkReady")

    def run_sandbox(
        self,
        namespace: str,
        name: str,
        attempt: int = 0,
        *,
        annotations: Mapping[str, str] | None = None,
        ports: Mapping[int, int] | None = None,
    ) -> str:
        """RunPodSandbox, and the sandbox's ID; kubelet counts `attempt` up with each sandbox of a pod.

        `ports` are TCP ports of the host and of the pod.
        """
        metadata = message((1, name), (2, f"uid-of-{name}"), (3, namespace), (4, attempt))
        linux = message((1, f"{cgroup.PARENT}/{name}"))
        parts: list[tuple[int, bytes]] = [(7, message(*enumerate(p, 1))) for p in (annotations or {}).items()]
        parts += [(5, message((2, inside), (3, outside))) for outside, inside in (ports or {}).items()]
        config = message((1, metadata), (2, name), (3, f"/var/log/pods/{name}"), *parts, (8, linux))
        return text(self._call("RunPodSandbox", (1, config)), 1)

    def address(self, sandbox: str) -> str:
        """The pod's IP that PodSandboxStatus tells; the API server shows it as the pod's."""
        status = strings(self._call("PodSandboxStatus", (1, sandbox)), 1)[0]
        return text(strings(status, 5)[0], 1)

    def sandboxes(self) -> list[str]:
        """The IDs of all sandboxes, those that failed included."""
        return [text(item, 1) for item in strings(self._call("ListPodSandbox"), 1)]

    def stop(self, sandbox: str) -> None:
        self._call("StopPodSandbox", (1, sandbox))

    def remove(self, sandbox: str) -> None:
        self._call("RemovePodSandbox", (1, sandbox))

    def _call(self, method: str, *parts: tuple[int, int | str | bytes]) -> bytes:
        """One unary call: gRPC is HTTP/2 with a flag byte and the length in 4 bytes before the message."""
        number = next(self._numbers)
        request, reply, headers = (f"/root/cri-{number}-{part}" for part in ("request", "reply", "headers"))
        body = message(*parts)
        self._node.path(request).write_bytes(b"\0" + len(body).to_bytes(4, "big") + body)
        self._node.path(reply).write_bytes(b"")
        command = ["curl", "--silent", "--show-error", "--http2-prior-knowledge", "--unix-socket", SOCKET]
        command += ["--header", "content-type: application/grpc", "--header", "te: trailers"]
        command += ["--data-binary", f"@{request}", "--dump-header", headers, "--output", reply]
        self._node.run([*command, f"http://localhost/runtime.v1.RuntimeService/{method}"])
        said = dict(line.split(": ", 1) for line in self._node.read(headers).splitlines() if ": " in line)
        if said.get("grpc-status") != "0":
            raise CriError(f"{method}: {unquote(said.get('grpc-message', 'no status of gRPC came back'))}")
        return self._node.path(reply).read_bytes()[5:]


def message(*parts: tuple[int, int | str | bytes]) -> bytes:
    """A protocol buffer of numbers, strings, and messages that are encoded already."""
    encoded = b""
    for number, value in parts:
        if isinstance(value, int):
            encoded += _varint(number << 3) + _varint(value)
        else:
            data = value.encode() if isinstance(value, str) else value
            encoded += _varint(number << 3 | 2) + _varint(len(data)) + data
    return encoded


def fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a protocol buffer: numbers as such, strings and messages as bytes."""
    octets = iter(data)
    while (tag := _number(octets)) is not None:
        value = _number(octets)
        assert value is not None
        yield tag >> 3, bytes(next(octets) for _ in range(value)) if tag & 7 == 2 else value


def strings(data: bytes, number: int) -> list[bytes]:
    """All strings or messages of one field."""
    return [value for found, value in fields(data) if found == number and isinstance(value, bytes)]


def text(data: bytes, number: int) -> str:
    """The first string of one field, or "", which is not sent."""
    return next(iter(strings(data, number)), b"").decode()


def _varint(value: int) -> bytes:
    return bytes([value]) if value < 0x80 else bytes([value & 0x7F | 0x80]) + _varint(value >> 7)


def _number(octets: Iterator[int]) -> int | None:
    """The next varint, or None at the end."""
    shift = value = 0
    for octet in octets:
        value |= (octet & 0x7F) << shift
        if octet < 0x80:
            return value
        shift += 7
    return None
