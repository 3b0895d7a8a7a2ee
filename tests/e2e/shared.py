"""What several tests share.  One LAN, and one node, for all tests of a module:

lan = shared.lan
node = shared.node('[dhcp]\\ntimeout = "2s"\\n')
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.core.test_cli_golden import validate
from tests.lab import Lan, Node


@pytest.fixture(scope="module")
def lan() -> Iterator[Lan]:
    with Lan() as built:
        yield built


def node(config: str) -> Callable[[Lan], Node]:
    """The fixture of a node n1 with this configuration, whose daemon runs and is ready."""

    @pytest.fixture(scope="module")
    def node(lan: Lan) -> Node:
        node = lan.node("n1", config)
        node.start_daemon().wait_ready()
        return node

    return node


def findings_in(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    """What `terwayctl doctor --json` found, by code; the exit status has to agree with it."""
    document = json.loads(done.stdout)
    validate("doctor", document)
    found = {finding["code"]: finding for finding in document["findings"]}
    bad = [f for f in found.values() if f["severity"] in {"warning", "error"} and not f["ignored"]]
    assert done.returncode == (4 if bad else 0), done.stdout
    return found
