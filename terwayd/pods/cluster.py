"""Where the Service ranges come from that nobody configured: looked for in the background, until they are found.

Where this is no node of a cluster, a doorbell tells when it becomes one.  An API server that does not say is
asked again.  The kubelet's credentials are read when they are used, and not kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import logging
import os
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from terwayd.config import Network
from terwayd.kernel.watch import WRITTEN, Watch
from terwayd.pods import services
from terwayd.pods.services import Access

log = logging.getLogger(__name__)

T = TypeVar("T")

_TIMEOUT = 5.0  # seconds that the API server has for an answer
_FIRST, _LONGEST = 2.0, 60.0  # seconds between two looks
_MOST = 1 << 20  # bytes of an answer


class ServiceRanges:
    """The Service ranges: `known` at any time, and looked for by search() where they are to be found."""

    def __init__(self, configured: tuple[Network, ...] | None, *, on_found: Callable[[], None]) -> None:
        self._on_found = on_found
        self._wanted = configured is None
        self._searching = False
        self._changed = asyncio.Event()
        self.known: tuple[Network, ...] = configured or ()

    async def search(self) -> None:
        """Return when they are known, or not wanted; on_found() is called where they were not known before."""
        if self._searching or not self._wanted or self.known:
            return
        self._searching = True
        try:
            with _watch(self._changed.set) as watched:
                await self._search(watched=watched)
        finally:
            self._searching = False

    async def _search(self, *, watched: bool) -> None:
        pause, told = _FIRST, False
        while True:
            self._changed.clear()
            found, why_not, asked = await _in_background(_look)
            if self.known or not self._wanted:
                return
            if found:
                self.known = found
                log.info("the cluster's Service ranges: %s", ", ".join(map(str, found)))
                self._on_found()
                return
            if not told:
                told = True
                log.info("no Service range is known, and pods get no route to one: %s", why_not)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), pause if asked or not watched else None)
            pause = _FIRST if self._changed.is_set() else min(2 * pause, _LONGEST)

    def configure(self, configured: tuple[Network, ...] | None) -> None:
        """Go on with another configuration."""
        before = self.known
        self.known = configured or ()
        self._wanted = configured is None
        self.look()
        self._changed.set()
        if self.known and not before:
            self._on_found()

    def look(self) -> None:
        """Know what this node's own kube-apiserver says, before search() has begun.  Reads a file."""
        if self._wanted and not self.known:
            with contextlib.suppress(OSError, UnicodeDecodeError):
                self.known = services.from_manifest(Path(services.APISERVER_MANIFEST).read_text())


@contextlib.contextmanager
def _watch(on_change: Callable[[], None]) -> Iterator[bool]:
    """Have `on_change` called when there is more to be read; False when the kernel refuses that."""
    try:
        watch = Watch([services.APISERVER_MANIFEST, services.KUBELET_CONFIG], WRITTEN, on_change)
    except OSError as error:
        log.warning("a cluster is looked for every %.0f s: %s", _LONGEST, error)
        yield False
        return
    with contextlib.closing(watch):
        yield True


def _look() -> tuple[tuple[Network, ...], str, bool]:
    """The ranges, or why there are none and whether an API server was to be asked; blocking."""
    try:
        if found := services.from_manifest(Path(services.APISERVER_MANIFEST).read_text()):
            return found, "", False
    except (OSError, UnicodeDecodeError):
        pass  # no control plane node
    try:
        access = services.from_kubeconfig(Path(services.KUBELET_CONFIG).read_text())
    except FileNotFoundError:
        return (), f"there is no {services.KUBELET_CONFIG}", False
    except (OSError, ValueError) as error:
        return (), f"{services.KUBELET_CONFIG}: {error}", False
    try:
        found = services.from_config_map(ask(access, services.CONFIG_MAP))
        return found, "the ConfigMap kubeadm-config names none", True
    except (OSError, ValueError, http.client.HTTPException) as error:
        return (), f"the API server of {services.KUBELET_CONFIG} was not to be asked: {error}", True


def ask(access: Access, path: str) -> bytes:
    """What the API server answers to a GET of `path`; blocking.  OSError, ValueError or HTTPException when it does not."""
    url = urlsplit(access.server)
    with (
        _file(access.authority) as authority,
        _file(access.certificate) as certificate,
        _file(access.key) as key,
    ):
        context = ssl.create_default_context(cafile=authority)
        context.load_cert_chain(certificate, key)
    connection = http.client.HTTPSConnection(
        url.hostname or "", url.port or 443, timeout=_TIMEOUT, context=context
    )
    with contextlib.closing(connection):
        connection.request("GET", path, headers={"Accept": "application/json"})
        answer = connection.getresponse()
        content = answer.read(_MOST)
    if answer.status != http.client.OK:
        raise ValueError(f"{path}: {answer.status} {answer.reason}")
    return content


@contextlib.contextmanager
def _file(value: str | bytes) -> Iterator[str]:
    """A path for what ssl takes from files alone; what came as bytes never gets onto a disk."""
    if isinstance(value, str):
        yield value
        return
    descriptor = os.memfd_create("kubeconfig")
    try:
        os.write(descriptor, value)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


async def _in_background(work: Callable[[], T]) -> T:
    """`work()` in a thread that the end of the daemon does not wait for."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T) -> None:
        if not future.done():
            future.set_result(result)

    def body() -> None:
        result = work()
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, result)

    threading.Thread(target=body, name="cluster", daemon=True).start()
    return await future
