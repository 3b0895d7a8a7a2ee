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
DRY_RUN = typer.Option(False, "--dry-run", help="Print the steps as ip commands; change nothing.")


def _complete(context: typer.Context, incomplete: str) -> list[str]:
    """The names of the pods, for the shell's completion."""
    from .pods import names

    return names(Client(context.find_root().params.get("socket") or SOCKET), incomplete)


POD_HELP = "namespace/name, name, or container ID."
POD = typer.Argument("", metavar="[POD]", show_default=False, help=POD_HELP, autocompletion=_complete)
THE_POD = typer.Argument(..., metavar="POD", help=POD_HELP, autocompletion=_complete)


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
    watch: bool = typer.Option(
        False, "--watch", "-w", help="Again every second; piped, a line for each change."
    ),
    wait: str = typer.Option(
        "", "--wait", metavar="TIME", show_default=False, help="Up to this long (60s, 2m) until all is well."
    ),
    as_json: bool = JSON,
) -> int:
    """Show how host and pods are: exit status 0 when well, 4 when not, 3 without the daemon."""
    from . import watch as watching
    from .status import run

    if wait:
        watching.until_well(context.obj, watching.seconds(wait, "--wait"), pod)
    if watch:
        return watching.run(context.obj, pod=pod, as_json=as_json)
    return run(context.obj, pod=pod, brief=brief, as_json=as_json)


@app.command()
def pods(context: typer.Context, as_json: bool = JSON) -> int:
    """List the attached pods and where they are."""
    from .pods import run

    return run(context.obj, as_json=as_json)


leases = typer.Typer(help="List the DHCP leases of the pods, or do something about one.")
app.add_typer(leases, name="leases")


@leases.callback(invoke_without_command=True)
def _leases(context: typer.Context, as_json: bool = JSON) -> int:
    from .leases import run

    return run(context.obj, as_json=as_json) if context.invoked_subcommand is None else 0


@leases.command("show")
def leases_show(context: typer.Context, pod: str = THE_POD, as_json: bool = JSON) -> int:
    """Show all that the DHCP server has said to a pod."""
    from .leases import show

    return show(context.obj, pod=pod, as_json=as_json)


@leases.command("renew")
def leases_renew(context: typer.Context, pod: str = THE_POD, as_json: bool = JSON) -> int:
    """Have the DHCP server extend a pod's lease now."""
    from .leases import renew

    return renew(context.obj, pod=pod, as_json=as_json)


@leases.command("release")
def leases_release(context: typer.Context, pod: str = THE_POD, as_json: bool = JSON) -> int:
    """Give a pod's lease back and get a new one; the pod goes on with the new address."""
    from .leases import release

    return release(context.obj, pod=pod, as_json=as_json)


@app.command()
def logs(
    context: typer.Context,
    pod: str = POD,
    follow: bool = typer.Option(False, "--follow", "-f", help="Go on with what comes."),
    lines: int = typer.Option(100, "--lines", "-n", min=0, help="How many entries back."),
    as_json: bool = JSON,
) -> int:
    """Show what terwayd has logged, of one pod if it is named."""
    from .logs import run

    return run(context.obj, pod=pod, follow=follow, lines=lines, as_json=as_json)


@app.command()
def setup(
    context: typer.Context,
    dry_run: bool = DRY_RUN,
    yes: bool = typer.Option(False, "--yes", "-y", help="Ask nothing, and keep it without confirmation."),
    timeout: str = typer.Option(
        "",
        "--timeout",
        metavar="TIME",
        show_default=False,
        help="How long to wait for confirmation (90s, 5m); by default host.confirm_timeout.",
    ),
    as_json: bool = JSON,
) -> int:
    """Put the NIC under the bridge; undone at once if the gateway does not answer any more."""
    from .setup import run
    from .watch import seconds

    within = seconds(timeout, "--timeout") if timeout else 0.0
    return run(context.obj, dry_run=dry_run, yes=yes, seconds=within, as_json=as_json)


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


@app.command()
def reload(context: typer.Context, as_json: bool = JSON) -> int:
    """Apply what has been changed in the configuration file, as far as it needs no restart."""
    from .reload import run

    return run(context.obj, as_json=as_json)


metrics = typer.Typer(name="metrics", help="Counters and state for Prometheus.")
app.add_typer(metrics)


@metrics.command("print")
def metrics_print(context: typer.Context, as_json: bool = JSON) -> int:
    """Print them in Prometheus' text format."""
    from .metrics import show

    return show(context.obj, as_json=as_json)


@metrics.command("write")
def metrics_write(
    context: typer.Context,
    path: str = typer.Argument(
        ..., metavar="FILE", help="such as /var/lib/prometheus/node-exporter/terwayd.prom"
    ),
    as_json: bool = JSON,
) -> int:
    """Write them into a file for node_exporter's textfile collector, at one stroke."""
    from .metrics import write

    return write(context.obj, path, as_json=as_json)


config = typer.Typer(help="Check the configuration file, or show what is in effect.")
app.add_typer(config, name="config")


@config.command("check")
def config_check(
    context: typer.Context,
    file: str = typer.Argument("", metavar="[FILE]", show_default=False, help="By default the daemon's."),
    as_json: bool = JSON,
) -> int:
    """Say what is wrong in the file; exit status 4 when terwayd still runs with something else."""
    from .config import check

    return check(context.obj, file=file, as_json=as_json)


@config.command("show")
def config_show(context: typer.Context, as_json: bool = JSON) -> int:
    """Show every key as it is in effect."""
    from .config import show

    return show(context.obj, as_json=as_json)


cni = typer.Typer(help="Put the CNI plugin and its configuration in place, or take them away.")
app.add_typer(cni, name="cni")


@cni.command("install")
def cni_install(context: typer.Context, as_json: bool = JSON) -> int:
    """Put them where container runtimes look; the daemon does so at its start."""
    from .cni import install

    return install(context.obj, as_json=as_json)


@cni.command("uninstall")
def cni_uninstall(
    context: typer.Context,
    force: bool = typer.Option(False, "--force", help="Also when pods are still attached."),
    as_json: bool = JSON,
) -> int:
    """Take them away, so that no more pods come, until the next `install` or start of the daemon."""
    from .cni import uninstall

    return uninstall(context.obj, force=force, as_json=as_json)


@app.command()
def doctor(
    context: typer.Context,
    group: str = typer.Argument(
        "", metavar="[GROUP]", show_default=False, help="host, kernel, bridge, cni, dhcp, lan."
    ),
    ignore: list[str] = typer.Option(
        [], "--ignore", metavar="CODE", help="A check whose finding shall not count."
    ),
    bundle: str = typer.Option(
        "", "--bundle", metavar="FILE", help="Also collect what helps from afar: a .tar.gz."
    ),
    as_json: bool = JSON,
) -> int:
    """Look at this host and ask its LAN what could be wrong: exit status 4 when something is."""
    from .doctor import run

    return run(context.obj, group=group, ignored=ignore, bundle=bundle, as_json=as_json)
