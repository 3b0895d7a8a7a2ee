"""terwayctl against a real daemon: leases renewed and given back, configuration, plugin, completion, watching."""

from __future__ import annotations

import json
import shlex
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.core.test_cli_golden import validate
from tests.lab import CommandError, Lan, Node, Pod, eventually
from tests.lab.machine import CHECKOUT

CONFLIST = "/etc/cni/net.d/10-terway.conflist"
PLUGIN = "/opt/cni/bin/cni-terway"


@pytest.fixture
def node(lan: Lan) -> Node:
    node = lan.node("n1")
    node.start_daemon().wait_ready()
    return node


def impatient(lan: Lan) -> Node:
    """A node that waits for a DHCP server for two seconds only."""
    node = lan.node("n1", config='[dhcp]\ntimeout = "2s"\n')
    node.start_daemon().wait_ready()
    return node


def attached(node: Node, name: str) -> Pod:
    pod = node.pod(name)
    pod.add()
    return pod


def said(node: Node, *words: str, code: int = 0) -> Any:
    """What terwayctl prints as JSON, which is as the schema says."""
    done = node.terwayctl(*words, "--json", check=False)
    assert done.returncode == code, done.stdout + done.stderr
    document = json.loads(done.stdout)
    name = " ".join(words[: 2 if words[0] in ("config", "cni", "leases") else 1])
    validate(name, document)
    return document


def test_every_answer_is_as_the_schema_says(node: Node) -> None:
    attached(node, "web-0")
    attached(node, "db-0")
    for words in (
        "status",
        "status web-0",
        "pods",
        "leases",
        "leases show db-0",
        "config show",
        "config check",
    ):
        said(node, *words.split())
    assert [pod["name"] for pod in said(node, "pods")["pods"]] == ["db-0", "web-0"]
    said(node, "setup", "--dry-run")
    said(node, "teardown", "--dry-run", code=4)
    said(node, "teardown", "--force")
    said(node, "status", code=4)
    done = said(node, "setup", "--timeout", "2m")
    assert 100 < done["confirm_within"] <= 120
    assert {finding["code"] for finding in said(node, "status")["findings"]} == {"unconfirmed"}
    said(node, "rollback")
    said(node, "setup")
    said(node, "confirm")


def test_a_lease_is_renewed_now(lan: Lan) -> None:
    node = impatient(lan)
    pod = attached(node, "web-0")
    asked = len(lan.dhcp.messages("DHCPREQUEST", pod.mac))
    eventually(lambda: said(node, "leases", "show", "web-0")["leases"][0]["expires_in"] < 119, 5.0)
    [lease] = said(node, "leases", "renew", "web-0")["leases"]
    assert lease["expires_in"] > 119
    assert (lease["state"], lease["address"]) == ("bound", f"{pod.address}/24")
    assert len(lan.dhcp.messages("DHCPREQUEST", pod.mac)) == asked + 1
    lan.dhcp.stop()
    refused = node.terwayctl("leases", "renew", "web-0", check=False)
    assert refused.returncode == 1
    assert "no ACK came back; it goes on as it was" in refused.stderr
    assert "hint: see whether the DHCP server answers" in refused.stderr
    assert lan.host.ping(pod.address)


def test_a_lease_is_given_back_and_another_one_taken(lan: Lan, node: Node) -> None:
    pod = attached(node, "web-0")
    old = pod.address
    lan.dhcp.restart(first="192.168.77.210", last="192.168.77.220")
    [lease] = said(node, "leases", "release", "web-0")["leases"]
    assert [m.address for m in lan.dhcp.messages("DHCPRELEASE", pod.mac)] == [old]
    assert lease["address"].startswith("192.168.77.2")
    eventually(lambda: f"{pod.address}/24" == lease["address"], 5.0, "the pod has the new address")
    assert lan.host.ping(pod.address)
    assert not lan.host.ping(old)
    [finding] = said(node, "status")["findings"]
    assert finding["code"] == "address-changed"


def test_a_lease_given_back_stays_asked_for_where_no_server_answers(lan: Lan) -> None:
    node = impatient(lan)
    pod = attached(node, "web-0")
    lan.dhcp.stop()
    refused = node.terwayctl("leases", "release", "web-0", check=False)
    assert refused.returncode == 1
    assert "no OFFER came back; it is asked for still" in refused.stderr
    assert said(node, "status", code=4)["findings"][0]["code"] == "lease-lost"
    lan.dhcp.start()
    node.terwayctl("status", "--wait", "30s")
    assert lan.host.ping(pod.address)


def test_a_file_that_differs_from_what_runs(node: Node) -> None:
    assert node.terwayctl("config", "check").stdout == "/etc/terway.toml is right, and in effect.\n"
    node.write("/etc/terway.toml", "[pods]\nmtu = 1400\n")
    assert said(node, "config", "check", code=4)["changes"] == [
        {"key": "pods.mtu", "running": 0, "file": 1400}
    ]
    assert said(node, "config", "show")["config"]["pods"]["mtu"] == 0
    node.write("/etc/terway.toml", "[pods]\nmtux = 1400\n")
    wrong = node.terwayctl("config", "check", check=False)
    assert (wrong.returncode, wrong.stderr) == (
        1,
        'error: /etc/terway.toml: unknown pods.mtux\nhint: did you mean "mtu"?\n',
    )


def test_the_plugin_goes_and_comes_back(node: Node) -> None:
    pod = attached(node, "web-0")
    with pytest.raises(CommandError, match="1 pods are attached"):
        node.terwayctl("cni", "uninstall")
    assert node.path(PLUGIN).exists()
    pod.delete()
    assert said(node, "cni", "uninstall")["files"] == [PLUGIN, CONFLIST]
    assert not node.path(PLUGIN).exists()
    assert not node.path(CONFLIST).exists()
    assert said(node, "cni", "install")["files"] == [PLUGIN, CONFLIST]
    pod.add()


def test_completion_knows_the_pods(node: Node) -> None:
    attached(node, "web-0")
    attached(node, "db-0")

    def completed(words: str) -> list[str]:
        """What bash offers after `words`, by the file that the package installs."""
        typed = shlex.join(words.split(" "))
        script = f"""
            . {CHECKOUT}/packaging/deb/completion
            COMP_WORDS=({typed}) COMP_CWORD={words.count(" ")}
            _terwayctl_completion /usr/bin/terwayctl
            printf '%s\\n' "${{COMPREPLY[@]}}" """
        return node.run(["bash", "-ec", script]).stdout.split()

    assert completed("terwayctl lea") == ["leases"]
    assert sorted(completed("terwayctl leases r")) == ["release", "renew"]
    assert completed("terwayctl leases renew ") == ["default/db-0", "default/web-0"]
    assert completed("terwayctl status default/w") == ["default/web-0"]
    assert completed("terwayctl logs d") == ["default/db-0", "default/web-0"]
    assert completed("terwayctl status db") == ["db-0"]
    node.daemon.term()  # type: ignore[union-attr]
    assert completed("terwayctl status d") == []


def test_watching_tells_what_changes(lan: Lan, node: Node, tmp_path: Path) -> None:
    output = tmp_path / "watched"
    with (
        output.open("w") as file,
        node.popen(
            ["/usr/bin/terwayctl", "status", "--watch"], stdout=file, start_new_session=True
        ) as watching,
    ):

        def told(text: str) -> None:
            eventually(lambda: text in output.read_text(), 15.0, text)

        told("  ready\n")
        pod = attached(node, "web-0")
        told(f"  default/web-0 bound {pod.address}/24\n")
        node.daemon.kill9()  # type: ignore[union-attr]
        told("terwayd is not running")
        node.start_daemon().wait_ready()
        eventually(lambda: output.read_text().count("  ready\n") == 2, 15.0, "it is back")
        pod.delete()
        told("no more: default/web-0 bound")
        watching.send_signal(signal.SIGINT)


def test_waiting_ends_when_all_is_well_and_not_later(node: Node) -> None:
    node.daemon.term()  # type: ignore[union-attr]
    begin = time.monotonic()
    assert node.terwayctl("status", "--wait", "1s", check=False).returncode == 3
    assert time.monotonic() - begin >= 1
    with node.popen(["/usr/bin/terwayctl", "status", "--wait=60s", "--brief"], stdout=-1) as waiting:
        node.start_daemon()
        assert waiting.communicate(timeout=30)[0] == b"ready: 0 pods\n"
    assert waiting.returncode == 0


def test_for_what_the_node_has_to_forward(lan: Lan) -> None:
    node = lan.node("n1", PUBLISHED)
    node.start_daemon().wait_ready()

    def told() -> list[str]:
        return [found["message"] for found in node.status()["findings"] if found["code"] == "no-forwarding"]

    assert told() == ["net.ipv4.ip_forward is 0: published ports lead to no pod"]
    node.write("/etc/terway.toml", PUBLISHED.replace("[]", '["10.96.0.0/16"]'))
    node.terwayctl("reload")
    assert told() == ["net.ipv4.ip_forward is 0: pods reach no Service and published ports lead to no pod"]
    node.run("sysctl -w net.ipv4.ip_forward=1")
    assert told() == []


PUBLISHED = '[cni]\nchain = ["portmap"]\n[pods]\nservice_cidrs = []\n'
