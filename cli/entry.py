"""Where terwayctl begins and ends: how every way out looks, and the short way of what monitoring asks.

typer takes longer to load than the daemon to answer, so these go without it.
"""

from __future__ import annotations

import contextlib
import os
import sys

from .client import Client
from .errors import exit_status, kind
from .render import clean, coloured

QUICK = (["status"], ["status", "--json"], ["status", "--brief"])


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
        result = _run(given)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read has seen enough; nothing may be written at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if type(error).__name__ == "Abort":  # click's, which may not be imported by name
            return 130
        if debug:
            import traceback

            traceback.print_exc()
        return _usage(error, given) if hasattr(error, "format_message") else _fail(error, given)
    return result if isinstance(result, int) else 0


def _run(given: list[str]) -> object:
    if given in QUICK:
        from .status import run

        return run(Client(), brief="--brief" in given, as_json="--json" in given)
    from .main import app

    return app(args=given, prog_name="terwayctl", standalone_mode=False)


def _say(message: str, hint: str) -> None:
    first, *more = message.splitlines() or [""]
    red, bold, off = ("\x1b[1;31m", "\x1b[1m", "\x1b[0m") if coloured(sys.stderr) else ("", "", "")
    print(f"{red}error:{off} {clean(first)}", *map(clean, more), sep="\n", file=sys.stderr)
    if hint:
        print(f"{bold}hint:{off} {clean(hint)}", file=sys.stderr)


def _usage(error: Exception, arguments: list[str]) -> int:
    """A wrong command line; `error` is click's, which may not be imported by name."""
    context = getattr(error, "ctx", None)
    hint = f"{context.command_path if context else 'terwayctl'} --help"
    message = str(error.format_message())  # type: ignore[attr-defined]
    if message.startswith("No such command") and context:
        import difflib

        typed = next((a for a in arguments if repr(a) in message), "")
        if near := difflib.get_close_matches(typed, context.command.commands, n=1):
            hint = f"{context.command_path} {near[0]}"
    _say(message, hint)
    return int(error.exit_code)  # type: ignore[attr-defined]


def _fail(error: Exception, arguments: list[str]) -> int:
    hint = getattr(error, "hint", "")
    if exit_status(error) == 6 and os.geteuid() != 0:
        hint = _words("sudo", "terwayctl", *arguments)
    message = getattr(error, "message", "") or str(error)
    if not hasattr(error, "hint") and kind(error) != "NotPermittedError":  # not one of ours: a bug
        message = f"{type(error).__name__}: {message}"
        hint = _words("terwayctl", "--debug", *arguments)
    _say(message, hint)
    return exit_status(error)


def _words(*words: str) -> str:
    import shlex

    return shlex.join(words)


if __name__ == "__main__":
    sys.exit(main())
