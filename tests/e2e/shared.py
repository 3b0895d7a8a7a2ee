"""One LAN, and one node, for all tests of a module:

lan = shared.lan
node = shared.node('[dhcp]\\ntimeout = "2s"\\n')
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

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
