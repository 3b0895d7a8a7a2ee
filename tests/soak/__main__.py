"""`python3 -m tests.soak [--seconds N] [--seed N] [--nodes N] [--slots N]`: a long random run, as root."""

from __future__ import annotations

import argparse
import random
import sys

from tests.lab import Lan
from tests.soak.run import soak


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 -m tests.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--log", type=int, default=60, help="lines of each log after a failure")
    given = parser.parse_args()
    report = soak(given.seconds, given.seed, nodes=given.nodes, slots=given.slots, told=print)
    print(report)
    for title, log in Lan.failures:
        print(f"--- {title}", *log.splitlines()[-given.log :], sep="\n")
    return 0 if report.well else 1


sys.exit(main())
