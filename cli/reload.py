"""terwayctl reload: has the daemon read its configuration file again; systemctl reload runs this."""

from __future__ import annotations

from .client import Client
from .render import clean, print_json
from .setup import TAKEOVER_S


def run(client: Client, *, as_json: bool = False) -> int:
    """Say which keys are in force now, and which wait for a restart; the exit status."""
    done = client.call("Reload", timeout=TAKEOVER_S)
    if as_json:
        print_json(done)
        return 0
    for key in done["applied"]:
        print(clean(f"{key} is in force."))
    for key in done["waiting"]:
        print(clean(f"{key} waits for systemctl restart terwayd."))
    if not done["applied"] and not done["waiting"]:
        print("Nothing has changed.")
    return 0
