"""What all tests share: the fixture `lan`, and the lab's logs in the report of a test that failed."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from _pytest.terminal import TerminalReporter
from hypothesis import settings

from tests.lab import Lan

settings.register_profile("lab", deadline=None)  # a stall of this machine is no fault of an example
settings.load_profile("lab")


@pytest.fixture
def lan() -> Iterator[Lan]:
    """A LAN of the test's own: switch, gateway with a DHCP server (leases of two minutes), plain host."""
    if os.geteuid() != 0:
        pytest.fail("this test builds a LAN of network namespaces: run it as root", pytrace=False)
    with Lan() as built:
        yield built


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Attach what the daemons and the DHCP server of a failed test logged."""
    logs, Lan.failures[:] = list(Lan.failures), []
    if report.failed:
        for built in Lan.live:
            logs += built.report()
        report.sections += [(title, tail(text)) for title, text in logs]


def tail(text: str, lines: int = 120) -> str:
    """The end of a log, which is where the failure is."""
    kept = text.splitlines()
    return "\n".join(
        kept if len(kept) <= lines else [f"... {len(kept) - lines} lines before", *kept[-lines:]]
    )


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    """Show what a soak did, also a good one: with its seed it can be had again."""
    for report in terminalreporter.getreports("passed"):
        if report.nodeid.startswith("tests/soak/") and report.when == "call":
            terminalreporter.section("soak")
            terminalreporter.write(report.capstdout)
