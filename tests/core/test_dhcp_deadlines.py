"""Times by key: what is due comes once and in order, what was moved or forgotten does not, and does not pile up."""

# mypy: disable-error-code="misc"
from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from terwayd.dhcp.deadlines import Deadlines

SET = st.tuples(st.just("set"), st.integers(0, 5), st.sampled_from([*map(float, range(10)), math.inf]))
FORGET = st.tuples(st.just("forget"), st.integers(0, 5), st.just(0.0))
DUE = st.tuples(st.just("due"), st.just(0), st.sampled_from([float(n) for n in range(10)]))


@given(st.lists(SET | FORGET | DUE, max_size=60))
def test_as_a_dictionary_would_do_it(doings: list[tuple[str, int, float]]) -> None:
    deadlines, plain = Deadlines(), dict[int, float]()
    for what, key, at in doings:
        if what == "set":
            assert deadlines.set(key, at) == (plain.get(key, math.inf) != at)
            plain[key] = at
        elif what == "forget":
            deadlines.forget(key)
            plain.pop(key, None)
        else:
            came = list(deadlines.due(at))
            assert sorted(map(str, came)) == sorted(str(key) for key, when in plain.items() if when <= at)
            times = [plain.pop(key) for key in came if isinstance(key, int)]
            assert times == sorted(times)
        assert deadlines.nearest() == min(plain.values(), default=math.inf)


def test_what_is_set_while_others_are_served() -> None:
    deadlines = Deadlines()
    deadlines.set("a", 1.0)
    deadlines.set("b", 2.0)
    came = []
    for key in deadlines.due(5.0):
        came.append(key)
        if len(came) == 1:
            deadlines.set("b", 9.0)
            deadlines.set("c", 3.0)
    assert came == ["a", "c"]
    assert deadlines.nearest() == 9.0


def test_forgotten_ones_do_not_pile_up() -> None:
    deadlines = Deadlines()
    for n in range(1000):
        deadlines.set("stays", 1e6 + n)
        deadlines.set(n, 1e6)
        deadlines.forget(n)
        assert len(deadlines) <= 2 + 64
    assert list(deadlines.due(2e6)) == ["stays"]
