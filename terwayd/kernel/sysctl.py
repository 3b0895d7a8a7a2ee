"""/proc/sys, of the network namespace that the calling thread is in."""

from __future__ import annotations

import os
from pathlib import Path

from terwayd.errors import KernelError


def read_sysctls(keys: tuple[str, ...], *devs: str) -> dict[str, str]:
    """The values of `keys` (with {} for the interface) for each of `devs`, where the kernel has them."""
    found = {}
    for dev in devs:
        for key in keys:
            name = key.format(dev)
            try:
                found[name] = Path("/proc/sys", name).read_text().strip()
            except OSError:
                continue
    return found


def write_sysctl(key: str, value: str) -> None:
    """Set /proc/sys/`key`; a key that this kernel does not have is left out."""
    try:
        file = os.open(f"/proc/sys/{key}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(file, value.encode())
        finally:
            os.close(file)
    except FileNotFoundError:
        return
    except OSError as error:
        raise KernelError(f"sysctl -w {key}={value}: {error.strerror}", error.errno or 0) from None
