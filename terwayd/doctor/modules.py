"""Why the kernel lacks something that comes as a module: somebody forbids it, or it is not there."""

from __future__ import annotations

import os
import re
from pathlib import Path

from terwayd.doctor.facts import Lacking
from terwayd.host.asking import read

_CONFIGURED = ("/etc/modprobe.d", "/run/modprobe.d", "/usr/local/lib/modprobe.d", "/usr/lib/modprobe.d")
_TREES = Path("/lib/modules")


def why(module: str) -> Lacking:
    """What keeps the running kernel from having `module`."""
    release = os.uname().release
    files = [file for directory in _CONFIGURED for file in sorted(Path(directory).glob("*.conf"))]
    return Lacking(
        module,
        forbidden=tuple(str(file) for file in files if forbids(read(str(file)), module)),
        missing="" if _has(_TREES / release, module) else str(_TREES / release),
        elsewhere=any(_has(tree, module) for tree in _TREES.glob("*") if tree.name != release),
        release=release,
    )


def forbids(text: str, module: str) -> bool:
    """Whether a file of modprobe.d(5) keeps `module` from being loaded when it is needed.  Pure."""
    return re.search(rf"^[ \t]*(install|blacklist)[ \t]+{module}\b", text, re.MULTILINE) is not None


def _has(tree: Path, module: str) -> bool:
    """Whether the modules of a kernel have it, or the kernel itself."""
    if f"/{module}.ko\n" in read(str(tree / "modules.builtin")):
        return True
    known = re.search(rf"^(\S*/{module}\.ko[.\w]*):", read(str(tree / "modules.dep")), re.MULTILINE)
    return known is not None and (tree / known[1]).exists()
