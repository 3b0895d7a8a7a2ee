"""terwayctl teardown: has the daemon give the NIC its addresses back and remove the bridge.

Where no daemon runs, the same is done from here, by what the daemon left in its state.
"""

from __future__ import annotations

from typing import Any

from . import plan
from .client import Client
from .errors import NotRunningError
from .render import clean, count, print_json, progress
from .setup import TAKEOVER_S


def run(client: Client, *, force: bool = False, dry_run: bool = False, as_json: bool = False) -> int:
    """Undo the takeover, or show the plan for it; the exit status."""
    if dry_run:
        return plan.show(client.call("Plan", action="teardown"), action="teardown", as_json=as_json)
    done = _teardown(client, force)
    if as_json:
        print_json(done)
    elif done["changed"]:
        time = f"{count(done['steps'], 'step')} in {done['milliseconds']:.0f} ms"
        print(clean(f"{done['uplink']} has its addresses back and {done['bridge']} is gone: {time}."))
    else:
        print(clean(f"{done['bridge']} is not there: nothing to do."))
    return 0


def _teardown(client: Client, force: bool) -> dict[str, Any]:
    try:
        with progress("giving the NIC its addresses back"):
            return client.call("Teardown", timeout=TAKEOVER_S, force=force)
    except NotRunningError:
        from terwayd import offline  # brings netlink along, for this one case

        return offline.teardown_offline(force=force)
