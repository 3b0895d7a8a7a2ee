"""The command line: what can be typed.

Commands live in modules of their own and are imported when one is asked for, so that the answer
to `status` does not wait for code it does not need.
"""

from __future__ import annotations

import typer

from .client import SOCKET, Client

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


metrics = typer.Typer(name="metrics", help="Counters and state for Prometheus.")
app.add_typer(metrics)


@metrics.command("print")
def metrics_print(context: typer.Context) -> int:
    """Print them in Prometheus' text format."""
    from .metrics import show

    return show(context.obj)


@metrics.command("write")
def metrics_write(
    context: typer.Context,
    path: str = typer.Argument(
        ..., metavar="FILE", help="such as /var/lib/prometheus/node-exporter/terwayd.prom"
    ),
) -> int:
    """Write them into a file for node_exporter's textfile collector, at one stroke."""
    from .metrics import write

    return write(context.obj, path)
