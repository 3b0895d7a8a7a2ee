"""An image without a registry: busybox alone, packed as `docker save` packs it.

Its one program waits; the others are there to look at a container's network from inside.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from functools import cache
from pathlib import Path

NAME = "localhost/wait:1"
BUSYBOX = Path("/usr/bin/busybox")  # Debian's busybox-static: runs in a root without libraries
APPLETS = ("cat", "hostname", "ip", "ping", "sh", "sleep")


@cache
def archive() -> bytes:
    """The image as a docker archive, for `ctr images import` and `podman load`."""
    layer = _tar(
        {"bin/busybox": BUSYBOX.read_bytes()}, links={f"bin/{applet}": "busybox" for applet in APPLETS}
    )
    config = {
        "architecture": _architecture(),
        "os": "linux",
        # PID 1 of a container takes no SIGTERM that it has no handler for: be stopped at once.
        "config": {
            "Env": ["PATH=/bin"],
            "Entrypoint": ["/bin/sleep"],
            "Cmd": ["3600"],
            "StopSignal": "SIGKILL",
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{_digest(layer)}"]},
    }
    described = json.dumps(config).encode()
    name = f"{_digest(described)}.json"
    manifest = [{"Config": name, "RepoTags": [NAME], "Layers": ["layer.tar"]}]
    return _tar({name: described, "layer.tar": layer, "manifest.json": json.dumps(manifest).encode()})


def _tar(files: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o755
            tar.addfile(member, io.BytesIO(content))
        for name, target in (links or {}).items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            tar.addfile(member)
    return packed.getvalue()


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _architecture() -> str:
    """This machine's architecture as images call it, from the ELF header of the program."""
    machine = int.from_bytes(BUSYBOX.read_bytes()[18:20], "little")
    return {62: "amd64", 183: "arm64"}[machine]
