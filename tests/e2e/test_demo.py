"""`make demo`: all of it comes out, in less than a minute; and it says so by its exit status when it does not."""

from __future__ import annotations

import subprocess
import time

import pytest

from tests.core.test_docs import to_run
from tests.lab.machine import CHECKOUT, PYTHON

pytestmark = pytest.mark.long
# As on a host whose configuration names a NIC that it does not have.
BROKEN = "import sys, tests.demo.__main__ as demo; demo.CONFIG = '[host]\\nuplink = \"nope0\"\\n'; sys.exit(demo.main())"


def test_the_demo_comes_out() -> None:
    begin = time.monotonic()
    [command] = to_run("README.md", "run: demo")
    done = subprocess.run(
        [*command.split(), "KEEP=1"], cwd=CHECKOUT, capture_output=True, text=True, input="\n"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert time.monotonic() - begin < 60
    assert "steps came out as they must" in done.stdout
    assert "To leave: press Enter here." in done.stdout
    assert "7 released, 0 held" in done.stdout
    for told in (
        "a renewal fails",
        "no OFFER came back",
        "mended in",
        "0 DHCP messages; lost: 0 of",
        "routes alike",
    ):
        assert told in done.stdout


def test_a_demo_that_fails_says_so() -> None:
    done = subprocess.run([PYTHON, "-c", BROKEN], cwd=CHECKOUT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "steps failed" in done.stderr
    assert "there is no interface 'nope0' on this host" in done.stderr
