"""What container runtimes find of us on the disk: the plugin in their directories, and the conflist.

The conflist is there exactly while the node takes pods: a runtime calls the network ready by it.
Both are written beside their place and renamed, so that nobody ever reads half of one.
"""

from __future__ import annotations

import importlib.util
import json
import marshal
import os
from pathlib import Path
from typing import Any

from terwayd.cni.asked import CAPABILITIES
from terwayd.cni.protocol import VERSIONS
from terwayd.config import CniConfig
from terwayd.errors import HostError

PLUGIN = "cni-terway"
CONFLIST = "10-terway.conflist"
SHIM = Path("/usr/lib/cni") / PLUGIN
_PREPARED = """\
#!/usr/bin/python3 -IS
# cni-terway, put in place by terwayd: its code for the Python that made it, and its text for any other.
from _frozen_importlib_external import MAGIC_NUMBER
from marshal import loads

CODE = "{code}"
TEXT = "{text}"
exec(loads(bytes.fromhex(CODE)) if MAGIC_NUMBER == {magic!r} else bytes.fromhex(TEXT))
"""
_KNOWN = {"portmap": ("portMappings",), "bandwidth": ("bandwidth",)}


def conflist(config: CniConfig) -> str:
    """The network configuration: 1.0.0 for every runtime, up to 1.1.0 for those that choose."""
    plugins = [_entry(PLUGIN, CAPABILITIES), *(_chained(item) for item in config.chain)]
    listed = {
        "cniVersion": "1.0.0",
        "cniVersions": list(VERSIONS[2:]),
        "name": config.name,
        "plugins": plugins,
    }
    return json.dumps(listed, indent=2) + "\n"


def _chained(item: str | dict[str, Any]) -> dict[str, Any]:
    given = {"type": item} if isinstance(item, str) else item
    return _entry(given["type"], _KNOWN.get(given["type"], ())) | given


def _entry(name: str, capabilities: tuple[str, ...]) -> dict[str, Any]:
    """A plugin and what it is to be told of each container, which runtimes do only where they are asked."""
    entry: dict[str, Any] = {"type": name}
    return entry | ({"capabilities": dict.fromkeys(capabilities, True)} if capabilities else {})


def prepared(text: str) -> bytes:
    """The plugin with its code compiled: Python keeps none for a file that it runs, and a runtime runs it often.

    In hexadecimal digits, which Python reads twice as fast as what has to be escaped.
    """
    code = marshal.dumps(compile(text, PLUGIN, "exec", dont_inherit=True, optimize=2))
    parts = {"code": code.hex(), "text": text.encode().hex(), "magic": importlib.util.MAGIC_NUMBER}
    return _PREPARED.format(**parts).encode()


def install_plugin(config: CniConfig, shim: Path = SHIM) -> None:
    """Put the plugin into each of `cni.bin_dirs`, unless the same is there."""
    try:
        content = prepared(shim.read_text(encoding="utf-8"))
    except OSError as error:
        raise HostError(
            f"the CNI plugin {shim} cannot be read: {error.strerror}", hint="apt install --reinstall terwayd"
        ) from None
    for directory in config.bin_dirs:
        target = Path(directory, PLUGIN)
        if target.is_file() and target.read_bytes() == content and os.access(target, os.X_OK):
            continue
        _write(target, content, 0o755, "cni.bin_dirs")


def write_conflist(config: CniConfig) -> Path:
    target = Path(config.conf_dir, CONFLIST)
    _write(target, conflist(config).encode(), 0o644, "cni.conf_dir")
    return target


def remove_conflist(config: CniConfig) -> None:
    target = Path(config.conf_dir, CONFLIST)
    try:
        target.unlink()
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise HostError(
            f"cni.conf_dir: cannot remove {target}: {error.strerror}", hint=f"rm {target}"
        ) from None


def remove_plugin(config: CniConfig) -> None:
    for directory in config.bin_dirs:
        target = Path(directory, PLUGIN)
        try:
            target.unlink(missing_ok=True)
        except OSError as error:
            raise HostError(
                f"cni.bin_dirs: cannot remove {target}: {error.strerror}", hint=f"rm {target}"
            ) from None


def put(config: CniConfig, *, conflist: bool) -> list[str]:
    """Put in place what runtimes look for; the conflist only where pods can come.  The files."""
    install_plugin(config)
    if conflist:
        write_conflist(config)
    return _there(config)


def take_away(config: CniConfig) -> list[str]:
    """Take it away again.  The files that were there."""
    gone = _there(config)
    remove_conflist(config)
    remove_plugin(config)
    return gone


def _there(config: CniConfig) -> list[str]:
    return [str(file) for file in files(config) if file.exists()]


def files(config: CniConfig) -> list[Path]:
    """Where plugin and conflist are, when they are there."""
    plugins = [Path(directory, PLUGIN) for directory in config.bin_dirs]
    return [*plugins, Path(config.conf_dir, CONFLIST)]


def _write(target: Path, content: bytes, mode: int, key: str) -> None:
    beside = target.with_name(f".{target.name}.new")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(content)
        beside.chmod(mode)
        beside.rename(target)
    except OSError as error:
        raise HostError(
            f"{key}: cannot write {target}: {error.strerror}",
            hint=f"name a writable directory: {key} in /etc/terway.toml",
        ) from None
