"""terwayctl setup: has the daemon put the NIC under the bridge, or shows how it would.

The takeover itself is the daemon's, with its checks and its way back; this only warns someone
whose own SSH session is about to move.
"""

from __future__ import annotations

import ipaddress
import os
import select
import sys
import time
from pathlib import Path
from typing import Any

from . import plan
from .client import Client
from .errors import NotRunningError, TerwayError
from .render import clean, count, on_terminal, print_json, progress

CONFIG = "/etc/terway.toml"
TAKEOVER_S = 300.0  # seconds: the daemon ends it long before, one way or the other


def run(
    client: Client, *, dry_run: bool = False, yes: bool = False, seconds: float = 0.0, as_json: bool = False
) -> int:
    """Take the NIC over, or show the plan for it; undone after `seconds` without confirmation (0: as configured)."""
    if dry_run:
        planned = _plan_anyhow(client)
        return plan.show(planned, action="setup", remark=_risk(planned), as_json=as_json)
    try:
        if not yes and ssh_session() and (risk := _risk(client.call("Plan", action="setup"))):
            _confirm(risk)
        wanted = {"confirm": not yes, **({"seconds": seconds} if seconds else {})}
        with progress("putting the NIC under the bridge, and seeing whether the gateway answers"):
            done = client.call("Setup", timeout=TAKEOVER_S, **wanted)
    except NotRunningError as error:
        hint = error.hint.replace("systemctl start", "systemctl enable --now")
        raise NotRunningError(error.message, hint=hint) from None
    if as_json:
        print_json(done)
    elif done["changed"]:
        time = f"{count(done['steps'], 'step')} in {done['milliseconds']:.0f} ms"
        print(clean(f"{done['bridge']} now carries {done['uplink']}: {time}."))
        if (left := done["confirm_within"]) is not None:
            _await_enter(client, left)
    else:
        print(clean(f"{done['bridge']} carries {done['uplink']} already: nothing to do."))
    return 0


def confirm(client: Client, *, as_json: bool = False) -> int:
    """Keep the takeover that waits for it; the exit status."""
    done = client.call("Confirm")
    print_json(done) if as_json else print("Confirmed: it stays, also over a reboot.")
    return 0


def rollback(client: Client, *, as_json: bool = False) -> int:
    """Undo the takeover that waits for confirmation; the exit status."""
    with progress("giving the NIC its addresses back"):
        done = client.call("Rollback", timeout=TAKEOVER_S)
    if as_json:
        print_json(done)
    else:
        print(clean(f"{done['uplink']} has its addresses back and {done['bridge']} is gone."))
    return 0


def _await_enter(client: Client, seconds: float) -> None:
    """Confirm by ENTER where somebody sits at a terminal; the daemon keeps the time, not this."""
    if not sys.stdin.isatty():
        print(f"Keep it with `terwayctl confirm`: it is undone in {seconds:.0f} s otherwise.")
        return
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        question = f"Keep it? Press ENTER, or type `terwayctl confirm` elsewhere: undone in {left:.0f} s. "
        again = on_terminal(sys.stdout)  # the seconds run down there
        print(f"\r{question}" if again else question, end="" if again else "\n", flush=True)
        if select.select([sys.stdin], [], [], min(left, 1.0) if again else left)[0]:
            if sys.stdin.readline():
                confirm(client)
                return
            break
    print("\nNot confirmed: it is undone.")


def _plan_anyhow(client: Client) -> dict[str, Any]:
    try:
        return client.call("Plan", action="setup")
    except NotRunningError:
        from terwayd import offline  # brings netlink along, for this one case

        return offline.plan_setup(CONFIG)


def ssh_session() -> tuple[str, str] | None:
    """The server's and the client's address of the SSH session this runs in, if it does.

    sudo drops SSH_CONNECTION from the environment, so the parents' are looked at too.
    """
    value = os.environ.get("SSH_CONNECTION", "")
    process = os.getppid()
    while not value and process > 1:
        try:
            environment = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
            process = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            break
        prefix = b"SSH_CONNECTION="
        value = next(
            (e[len(prefix) :].decode("ascii", "replace") for e in environment if e.startswith(prefix)), ""
        )
    fields = value.split()
    return (fields[2], fields[0]) if len(fields) == 4 else None


def _risk(planned: dict[str, Any]) -> str:
    """What to tell someone whose SSH session goes over an address that moves; "" when none does."""
    if (session := ssh_session()) is None or not planned["changes"]:
        return ""
    server, peer = session
    words = {word for step in planned["steps"] for word in step["command"].split()}
    moving = {_address(word) for word in words if "/" in word}
    if _address(server) not in moving - {None}:
        return ""
    return f"Your SSH session ({server} ← {peer}) runs over {planned['uplink']}."


def _address(text: str) -> object:
    try:
        address = ipaddress.ip_interface(text.partition("%")[0]).ip
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _confirm(risk: str) -> None:
    if not sys.stdin.isatty():
        raise TerwayError(f"{risk} Nothing was changed.", hint="terwayctl setup --yes")
    import typer

    if not typer.confirm(f"{clean(risk)} It stays up if all goes well. Go on?", err=True):
        raise TerwayError("not confirmed, so nothing was changed", hint="terwayctl setup --dry-run")
