"""A soak of a minute with a seed of its own, printed; the long one is five minutes.  Hours: `python3 -m tests.soak`."""

from __future__ import annotations

import random

import pytest

from tests.soak.run import soak


@pytest.mark.parametrize("seconds", [60.0, pytest.param(300.0, marks=pytest.mark.long)])
def test_nothing_is_lost_and_nothing_left(seconds: float) -> None:
    report = soak(seconds, random.SystemRandom().randrange(1 << 32))
    print(report)
    assert report.well, report
    assert report.rounds > 2
