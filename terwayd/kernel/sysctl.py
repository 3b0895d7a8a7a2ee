"""/proc/sys, of the network namespace that the calling thread is in."""

from __future__ import annotations

from pathlib import Path

from terwayd.errors import KernelError


def read_sysctls(keys: tuple[str, ...], *devs: str) -> dict[str, str]:
    """The values of `keys` (with {} for the interface) for each of `devs`, where the kernel has them."""
    found = {}
    for dev in devs:
        for key in keys:
            name = key.format(dev)
            if (value := read_sysctl(name)) is not None:
                found[name] = value
    return found


def read_sysctl(key: str) -> str | None:
    """The value of /proc/sys/`key`; None where the kernel does not have it."""
    try:
        return Path("/proc/sys", key).read_text().strip()
    except OSError:
        return None


def write_sysctl(key: str, value: str) -> None:
    """Set /proc/sys/`key`; a key that this kernel does not have is left out."""
    try:
        Path("/proc/sys", key).write_text(value)
    except FileNotFoundError:
        return
    except OSError as error:
        raise KernelError(f"sysctl -w {key}={value}: {error.strerror}", error.errno or 0) from None
