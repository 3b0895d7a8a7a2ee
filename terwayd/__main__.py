"""terwayd: the daemon's entry point."""

from __future__ import annotations

import asyncio
import faulthandler
import sys

from terwayd import daemon, offline, systemd
from terwayd.errors import ConfigError, NewerState, TerwayError

_UNTIL_MENDED = 78  # EX_CONFIG of sysexits(3): another start would end the same; the unit knows it


def main() -> None:
    given = daemon.options()
    faulthandler.enable()  # where it hung is in the journal, after the watchdog's SIGABRT
    systemd.set_up_logging(debug=given.debug)
    try:
        if given.dead_man is not None:
            offline.rescue(float(given.dead_man[0]), given.dead_man[1])
        else:
            asyncio.run(daemon.run(given))
    except TerwayError as error:
        print(f"error: {error.message}", file=sys.stderr)  # noqa: T201  the daemon's last word
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)  # noqa: T201
        sys.exit(_UNTIL_MENDED if isinstance(error, ConfigError | NewerState) else 1)


if __name__ == "__main__":
    main()
