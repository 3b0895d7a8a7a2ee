"""A soak of five minutes with a seed of its own, printed.  Longer ones: `python3 -m tests.soak --seconds 3600`."""

from __future__ import annotations

import random

from tests.soak.run import soak


def test_nothing_is_lost_and_nothing_left() -> None:
    report = soak(300.0, random.SystemRandom().randrange(1 << 32))
    print(report)
    assert report.well, report
    assert report.rounds > 2
