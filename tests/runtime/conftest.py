"""The runtimes as fixtures, and the rule that a run leaves no control groups."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab import Lan, Node
from tests.runtime import cgroup
from tests.runtime.containerd import Containerd
from tests.runtime.podman import Podman


@pytest.fixture(autouse=True)
def _no_cgroups_left() -> Iterator[None]:
    """Autouse, so that it ends after the LAN has: a group with a process in it cannot be removed."""
    yield
    cgroup.remove_stale()


@pytest.fixture
def node(lan: Lan) -> Node:
    """A node that is ready; a pod waits for its lease no longer than a second."""
    node = lan.node("n1", '[dhcp]\ntimeout = "5s"\n')
    node.start_daemon("--debug").wait_ready()
    return node


@pytest.fixture
def containerd(node: Node) -> Containerd:
    """containerd on the ready node."""
    return Containerd(node)


@pytest.fixture
def podman(node: Node) -> Podman:
    """podman on the ready node."""
    return Podman(node)
