"""A takeover on probation: confirmed it stays, unconfirmed it goes, whoever is left to undo it."""

from __future__ import annotations

import time

from tests.lab import Lan, Node, eventually

CONFIG = '[host]\nconfirm_timeout = "{}"\nverify_timeout = "1s"\n'


def on_probation(lan: Lan, timeout: str) -> Node:
    """A node that was given back, and is set up again by hand."""
    node = lan.node("n1", config=CONFIG.format(timeout))
    node.start_daemon().wait_ready()
    node.terwayctl("teardown")
    shown = node.terwayctl("setup").stdout
    assert "terwayctl confirm" in shown
    assert node.status()["state"] == "ready"
    assert "unconfirmed" in {finding["code"] for finding in node.status()["findings"]}
    return node


def bridged(node: Node) -> bool:
    return node.run("ip link show mybr0", check=False).returncode == 0


def test_confirmed_it_stays(lan: Lan) -> None:
    node = on_probation(lan, "6s")
    node.terwayctl("confirm")
    assert not node.status()["findings"]
    refused = node.terwayctl("rollback", check=False)
    assert (refused.returncode, "nothing waits for confirmation" in refused.stderr) == (1, True)
    started = time.monotonic()
    eventually(lambda: time.monotonic() - started > 7, 10, "the time is over")
    assert bridged(node)


def test_unconfirmed_it_is_undone_by_the_daemon(lan: Lan) -> None:
    node = on_probation(lan, "5s")
    eventually(lambda: node.status()["state"] == "down", 12, "it is undone")
    assert not bridged(node)
    assert "not confirmed in time" in node.status()["reason"]
    assert lan.host.ping("192.168.77.11")


def test_rollback_undoes_it_at_once(lan: Lan) -> None:
    node = on_probation(lan, "60s")
    node.terwayctl("rollback")
    assert not bridged(node)
    assert node.status()["state"] == "down"


def test_the_timer_survives_the_daemons_restart(lan: Lan) -> None:
    node = on_probation(lan, "10s")
    assert node.daemon is not None
    node.daemon.kill9()
    node.start_daemon().wait_ready()
    assert bridged(node)
    eventually(lambda: node.status()["state"] == "down", 20, "it is undone")
    assert not bridged(node)


def test_the_dead_man_undoes_it_where_no_daemon_is_left(lan: Lan) -> None:
    node = on_probation(lan, "8s")
    assert node.daemon is not None
    node.daemon.kill9()
    assert bridged(node)
    eventually(lambda: not bridged(node), 30, "it is undone")
    assert lan.host.ping("192.168.77.11")
