"""terwayctl where no daemon runs: the plan before the first start, and the way back after a crash."""

from __future__ import annotations

import json

from tests.lab import Lan


def test_the_plan_can_be_read_before_the_first_start(lan: Lan) -> None:
    node = lan.node("n1")
    before = node.state()

    shown = node.terwayctl("setup", "--dry-run", check=False)

    assert shown.returncode == 4
    assert "ip link set eth0 master mybr0" in shown.stdout
    assert node.state() == before
    assert not node.path("/var/lib/terwayd/state.db").exists()
    plan = json.loads(node.terwayctl("setup", "--dry-run", "--json", check=False).stdout)
    commands = [step["command"] for step in plan["steps"]]
    assert commands[0].startswith("ip link add mybr0 address")


def test_setup_needs_the_daemon_and_says_how_to_start_it(lan: Lan) -> None:
    refused = lan.node("n1").terwayctl("setup", check=False)
    assert refused.returncode == 3
    assert "systemctl enable --now terwayd" in refused.stderr


def test_a_host_whose_daemon_is_dead_is_given_back_from_the_journal(lan: Lan) -> None:
    node = lan.node("n1")
    before = node.state()
    daemon = node.start_daemon().wait_ready()
    pod = node.pod("web-0")
    pod.add()
    daemon.kill9()

    refused = node.terwayctl("teardown", check=False)
    assert refused.returncode == 1
    assert "default/web-0" in refused.stderr
    assert "terwayctl teardown --force" in refused.stderr
    assert node.state() != before

    node.terwayctl("teardown", "--force")
    assert node.state() == before
    assert node.ping("192.168.77.2")
