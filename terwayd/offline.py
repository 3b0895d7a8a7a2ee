"""Planning and undoing without a running daemon, for terwayctl."""

from __future__ import annotations

import logging
import tempfile
import time
from pathlib import Path
from typing import Any

from terwayd import codec
from terwayd.api.replies import plan_dict, standing_dict
from terwayd.config import Config
from terwayd.daemon import read_config
from terwayd.errors import HostError
from terwayd.host.takeover import Takeover
from terwayd.kernel.netlink import Netlink
from terwayd.pods.identity import Attachment
from terwayd.store import DEFAULT_PATH, Store

log = logging.getLogger(__name__)


def plan_setup(config_path: str) -> dict[str, Any]:
    """What the daemon would do when it starts, as io.terway.Plan replies it; changes nothing."""
    with Netlink() as netlink, tempfile.TemporaryDirectory() as nowhere:
        store = Store(DEFAULT_PATH if DEFAULT_PATH.exists() else Path(nowhere, "state.db"))
        return plan_dict(Takeover(store, read_config(config_path)).plan_setup(netlink))


def teardown_offline(*, force: bool) -> dict[str, Any]:
    """Give the host back what it had, from the journal alone.

    Pods are refused unless `force`; then they lose the LAN, and the next daemon gives their leases back.
    """
    store = Store()
    pods = [codec.decode(Attachment, record.pod) for record in store.attachments()]
    with Netlink() as netlink:
        attached = [pod for pod in pods if netlink.link(pod.host_ifname) is not None]
        if attached and not force:
            names = ", ".join(sorted(str(pod) for pod in attached))
            raise HostError(
                f"{len(attached)} pods would lose the LAN: {names}", hint="terwayctl teardown --force"
            )
        for pod in attached:
            netlink.delete_link(pod.host_ifname)
        return standing_dict(Takeover(store, Config()).teardown(netlink))


def attached() -> dict[str, str]:
    """The pods that an earlier run of the daemon has attached, by the host's end of their interface."""
    store = Store()
    try:
        pods = [codec.decode(Attachment, record.pod) for record in store.attachments()]
    finally:
        store.close()
    return {pod.host_ifname: str(pod) for pod in pods}


def rescue(delay: float, watcher: str) -> None:
    """The dead man `watcher`: after `delay` seconds, undo a takeover that nobody finished or confirmed."""
    time.sleep(delay)
    with Netlink() as netlink:
        if Takeover(Store(), Config()).rescue(netlink, watcher):
            log.warning("the dead man undid a takeover that nobody finished or confirmed")
