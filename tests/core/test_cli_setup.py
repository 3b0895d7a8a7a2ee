"""terwayctl setup and teardown: plans, refusals, the SSH question, and a host without a daemon."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cli.entry import main
from cli.setup import ssh_session
from tests.core.cli_server import canned, failed, serving

ROOT = Path(__file__).parents[2]
PLAN = {
    "uplink": "eth0",
    "bridge": "mybr0",
    "steps": [
        {"command": "ip link add mybr0 type bridge", "undo": "ip link del mybr0"},
        {"command": "ip addr add 192.168.1.10/24 dev mybr0", "undo": "ip addr del 192.168.1.10/24 dev mybr0"},
    ],
    "warnings": ["dhclient runs on eth0"],
    "changes": True,
}
NO_PLAN = {**PLAN, "steps": [], "warnings": [], "changes": False}
DONE = {
    "uplink": "eth0",
    "bridge": "mybr0",
    "changed": True,
    "steps": 14,
    "milliseconds": 22.4,
    "confirm_within": None,
}
NOT_DONE = {**DONE, "changed": False, "steps": 0, "milliseconds": 0.1}
SSH = "192.168.1.5 50000 192.168.1.10 22"


@pytest.fixture(autouse=True)
def no_ssh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests over SSH: these are not about that session."""
    monkeypatch.setenv("SSH_CONNECTION", "not over ssh")


def run(tmp_path: Path, *words: str, **replies: dict[str, Any] | bytes) -> tuple[int, list[Any]]:
    """The exit status, and what the daemon was asked."""
    with serving(tmp_path / "s", canned(**replies)) as server:
        code = main(["--socket", str(tmp_path / "s"), *words])
    return code, [(call["method"], call["parameters"]) for call in server.calls]


def test_dry_run_prints_commands_and_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, "setup", "--dry-run", Plan=PLAN) == (4, [("io.terway.Plan", {"action": "setup"})])
    assert (
        capsys.readouterr().out
        == """\
Plan for eth0 → mybr0  (2 steps)
  1  ip link add mybr0 type bridge
  2  ip addr add 192.168.1.10/24 dev mybr0
! dhclient runs on eth0
Nothing was changed. Apply with: terwayctl setup
"""
    )


def test_dry_run_with_nothing_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "setup", "--dry-run", Plan=NO_PLAN)[0] == 0
    assert capsys.readouterr().out == "mybr0 carries eth0 already: nothing to do.\n"


def test_dry_run_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "setup", "--dry-run", "--json", Plan=PLAN)[0] == 4
    assert json.loads(capsys.readouterr().out) == {"schema": 1, "action": "setup", **PLAN}


def test_setup_says_what_was_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "setup", Setup=DONE) == (0, [("io.terway.Setup", {"confirm": True})])
    assert capsys.readouterr().out == "mybr0 now carries eth0: 14 steps in 22 ms.\n"
    assert run(tmp_path / "..", "setup", "--json", Setup=DONE)[0] == 0
    assert json.loads(capsys.readouterr().out) == {"schema": 1, **DONE}


def test_setup_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "setup", Setup=NOT_DONE)[0] == 0
    assert capsys.readouterr().out == "mybr0 carries eth0 already: nothing to do.\n"


def test_setup_rolled_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refusal = failed("192.168.1.1 did not answer within 10 s", "check the cable", "RolledBack")
    assert run(tmp_path, "setup", Setup=refusal)[0] == 5
    assert capsys.readouterr().err == "error: 192.168.1.1 did not answer within 10 s\nhint: check the cable\n"


def test_setup_without_a_daemon(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--socket", str(tmp_path / "none"), "setup"]) == 3
    assert capsys.readouterr().err == (
        f"error: terwayd is not running: {tmp_path}/none does not exist\nhint: systemctl enable --now terwayd\n"
    )


def test_ssh_over_the_nic_asks_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSH_CONNECTION", SSH)
    monkeypatch.setattr("sys.stdin", Path("/dev/null").open())  # noqa: SIM115 (monkeypatch puts the old one back)
    code, asked = run(tmp_path, "setup", Plan=PLAN, Setup=DONE)
    sys.stdin.close()
    assert (code, asked) == (1, [("io.terway.Plan", {"action": "setup"})])
    assert capsys.readouterr().err == (
        "error: Your SSH session (192.168.1.10 ← 192.168.1.5) runs over eth0. Nothing was changed.\n"
        "hint: terwayctl setup --yes\n"
    )


def test_ssh_and_yes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSH_CONNECTION", SSH)
    assert run(tmp_path, "setup", "--yes", Plan=PLAN, Setup=DONE) == (
        0,
        [("io.terway.Setup", {"confirm": False})],
    )


@pytest.mark.parametrize("connection", [SSH.replace("1.10", "1.1"), "fe80::5%eth1 1 fe80::1%eth1 22"])
def test_ssh_over_another_address_is_not_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, connection: str
) -> None:
    monkeypatch.setenv("SSH_CONNECTION", connection)
    assert run(tmp_path, "setup", Plan=PLAN, Setup=DONE)[1][-1] == ("io.terway.Setup", {"confirm": True})


def test_dry_run_warns_of_ssh(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSH_CONNECTION", SSH.replace("192", "::ffff:192"))
    assert run(tmp_path, "setup", "--dry-run", Plan=PLAN)[0] == 4
    assert (
        "! Your SSH session (::ffff:192.168.1.10 ← ::ffff:192.168.1.5) runs over eth0."
        in capsys.readouterr().out
    )


def test_ssh_is_seen_through_sudo() -> None:
    """As sudo does it: a child without the variable, below a shell that has it."""
    code = "from cli.setup import ssh_session; print(ssh_session())"
    inner = f'env -u SSH_CONNECTION {sys.executable} -c "{code}"; true'
    environment = {**os.environ, "SSH_CONNECTION": SSH}
    done = subprocess.run(
        ["sh", "-c", inner], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "('192.168.1.10', '192.168.1.5')\n"
    assert ssh_session() is None


def test_teardown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "teardown", "--force", Teardown=DONE) == (
        0,
        [("io.terway.Teardown", {"force": True})],
    )
    assert capsys.readouterr().out == "eth0 has its addresses back and mybr0 is gone: 14 steps in 22 ms.\n"


def test_teardown_dry_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "teardown", "--dry-run", Plan=PLAN) == (
        4,
        [("io.terway.Plan", {"action": "teardown"})],
    )
    assert capsys.readouterr().out.startswith("Plan for mybr0 → eth0  (2 steps)\n")


def test_teardown_refused_lists_the_pods(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refusal = failed(
        "2 pods would lose the LAN: default/a, default/b\x07", "terwayctl teardown --force", "HostError"
    )
    code, asked = run(tmp_path, "teardown", Teardown=refusal)
    assert (code, asked[0]) == (1, ("io.terway.Teardown", {"force": False}))
    assert capsys.readouterr().err == (
        "error: 2 pods would lose the LAN: default/a, default/b\\x07\nhint: terwayctl teardown --force\n"
    )


def test_teardown_does_not_go_round_a_living_daemon(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(tmp_path / "s", lambda _call: None):  # it hangs up: it may well be at work
        assert main(["--socket", str(tmp_path / "s"), "teardown"]) == 3
    assert "closed the connection" in capsys.readouterr().err
