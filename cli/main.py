"""The command line: what can be typed, and how every way out looks.

Commands live in modules of their own and are imported when one is asked for, so that the answer
to `status` does not wait for code it does not need.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import shlex
import sys
import traceback

import typer

from .client import SOCKET, Client
from .errors import exit_status, kind
from .render import clean

COMMANDS = ("status", "leases", "setup", "confirm", "rollback", "teardown")

app = typer.Typer(
    name="terwayctl",
    help="Shows and steers terwayd, which gives containers and pods an address of the LAN.",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

JSON = typer.Option(False, "--json", help="Print JSON; its fields are stable within a schema number.")
POD = typer.Argument("", metavar="[POD]", show_default=False, help="namespace/name, name, or container ID.")
DRY_RUN = typer.Option(False, "--dry-run", help="Print the steps as ip commands; change nothing.")


def _version(wanted: bool) -> None:
    if wanted:
        from terwayd import __version__

        print(f"terwayctl {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _all(
    context: typer.Context,
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version and exit."
    ),
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error."),
    socket: str = typer.Option(SOCKET, "--socket", hidden=True),
) -> None:
    context.obj = Client(socket)
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command()
def status(
    context: typer.Context,
    pod: str = POD,
    brief: bool = typer.Option(False, "--brief", help="One line."),
    as_json: bool = JSON,
) -> int:
    """Show how host and pods are: exit status 0 when well, 4 when not, 3 without the daemon."""
    from .status import run

    return run(context.obj, pod=pod, brief=brief, as_json=as_json)


@app.command()
def leases(context: typer.Context, pod: str = POD, as_json: bool = JSON) -> int:
    """List the DHCP leases of the pods."""
    from .leases import run

    return run(context.obj, pod=pod, as_json=as_json)


@app.command()
def setup(
    context: typer.Context,
    dry_run: bool = DRY_RUN,
    yes: bool = typer.Option(False, "--yes", "-y", help="Ask nothing, and keep it without confirmation."),
    as_json: bool = JSON,
) -> int:
    """Put the NIC under the bridge; undone at once if the gateway does not answer any more."""
    from .setup import run

    return run(context.obj, dry_run=dry_run, yes=yes, as_json=as_json)


@app.command()
def confirm(context: typer.Context, as_json: bool = JSON) -> int:
    """Keep the takeover that `setup` made: without it, it is undone after a while."""
    from .setup import confirm as run

    return run(context.obj, as_json=as_json)


@app.command()
def rollback(context: typer.Context, as_json: bool = JSON) -> int:
    """Undo the takeover that waits for confirmation, now."""
    from .setup import rollback as run

    return run(context.obj, as_json=as_json)


@app.command()
def teardown(
    context: typer.Context,
    force: bool = typer.Option(False, "--force", help="Also when pods are still attached."),
    dry_run: bool = DRY_RUN,
    as_json: bool = JSON,
) -> int:
    """Give the NIC its addresses back and remove the bridge."""
    from .teardown import run

    return run(context.obj, force=force, dry_run=dry_run, as_json=as_json)


def _say(message: str, hint: str) -> None:
    first, *more = message.splitlines() or [""]
    print(f"error: {clean(first)}", *map(clean, more), sep="\n", file=sys.stderr)
    if hint:
        print(f"hint: {clean(hint)}", file=sys.stderr)


def _usage(error: Exception, arguments: list[str]) -> int:
    """A wrong command line; `error` is click's, which may not be imported by name."""
    context = getattr(error, "ctx", None)
    hint = f"{context.command_path if context else 'terwayctl'} --help"
    message = str(error.format_message())  # type: ignore[attr-defined]
    if message.startswith("No such command"):
        typed = next((a for a in arguments if repr(a) in message), "")
        if near := difflib.get_close_matches(typed, COMMANDS, n=1):
            hint = f"terwayctl {near[0]}"
    _say(message, hint)
    return int(error.exit_code)  # type: ignore[attr-defined]


def _fail(error: Exception, arguments: list[str]) -> int:
    hint = getattr(error, "hint", "")
    if exit_status(error) == 6 and os.geteuid() != 0:
        hint = shlex.join(["sudo", "terwayctl", *arguments])
    message = getattr(error, "message", "") or str(error)
    if not hasattr(error, "hint") and kind(error) != "NotPermittedError":  # not one of ours: a bug
        message = f"{type(error).__name__}: {message}"
        hint = shlex.join(["terwayctl", "--debug", *arguments])
    _say(message, hint)
    return exit_status(error)


def main(arguments: list[str] | None = None) -> int:
    """Run one command line and return its exit status."""
    given = sys.argv[1:] if arguments is None else arguments
    options = given[: given.index("--")] if "--" in given else given
    debug = "--debug" in options
    given = [word for word in options if word != "--debug"] + given[len(options) :]
    for stream in (sys.stdout, sys.stderr):  # an old locale shall not turn an arrow into a traceback
        with contextlib.suppress(AttributeError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        result = app(args=given, prog_name="terwayctl", standalone_mode=False)
        sys.stdout.flush()
    except (typer.Abort, KeyboardInterrupt):
        return 130
    except BrokenPipeError:
        # Whoever read has seen enough; nothing may be written at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if debug:
            traceback.print_exc()
        return _usage(error, given) if hasattr(error, "format_message") else _fail(error, given)
    return result if isinstance(result, int) else 0


if __name__ == "__main__":
    sys.exit(main())
