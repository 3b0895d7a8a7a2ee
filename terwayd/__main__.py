"""terwayd: the daemon's entry point."""

from __future__ import annotations

import asyncio
import sys

from terwayd import daemon, offline, systemd
from terwayd.errors import TerwayError


def main() -> None:
    given = daemon.options()
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
        sys.exit(1)


if __name__ == "__main__":
    main()
