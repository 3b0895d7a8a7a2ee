"""terwayctl status and leases against a Varlink server: what is printed, and the exit status."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cli.entry import main
from tests.core.cli_server import canned, lease, on_terminal, pod, serving, status

ROOT = Path(__file__).parents[2]

ACQUIRING = {
    "address": None,
    "gateway": None,
    "server": None,
    "state": "acquiring",
    "renews_in": None,
    "expires_in": None,
}
FINDING = {
    "code": "lease-lost",
    "severity": "error",
    "message": "default/web: server 192.168.1.1 silent for 9 min",
    "hint": "terwayctl leases",
}


def ask(tmp_path: Path, answer: dict[str, Any], *words: str) -> int:
    with serving(tmp_path / "s", canned(Status=answer, Leases=answer)):
        return main(["--socket", str(tmp_path / "s"), *words])


def test_healthy_is_quiet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    coredns = pod("coredns-abc", namespace="kube-system", address="192.168.1.124/24", renews_in=4322)
    assert ask(tmp_path, status(pod(), coredns), "status") == 0
    assert (
        capsys.readouterr().out
        == """\
● terwayd 1.0.0  ready for 3d 04h, 2 pods
  bridge  mybr0 ← eth0  192.168.1.10/24  gw 192.168.1.1  mtu 1500  52:54:00:ab:cd:ef
  dhcp    192.168.1.1  2 bound  next renewal in 1h 12m
  config  /etc/terway.toml

  POD                      ADDRESS           STATE  RENEWS  IFACE
  default/web-7c9f-x2k     192.168.1.123/24  bound  5h 02m  tw3f9a1c00aa11
  kube-system/coredns-abc  192.168.1.124/24  bound  1h 12m  tw3f9a1c00aa11
"""
    )


def test_degraded_says_what_and_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drift = {"code": "drift", "severity": "warning", "message": "address came back", "hint": ""}
    container = pod("", namespace="", **ACQUIRING)
    answer = status(container, state="degraded", reason="2 findings", findings=[FINDING, drift])
    assert ask(tmp_path, answer, "status") == 4
    assert (
        capsys.readouterr().out
        == """\
! terwayd 1.0.0  degraded for 3d 04h, 1 pod
  2 findings
  bridge  mybr0 ← eth0  192.168.1.10/24  gw 192.168.1.1  mtu 1500  52:54:00:ab:cd:ef
  dhcp    no server yet  1 acquiring
  config  /etc/terway.toml
  ✘ lease-lost  default/web: server 192.168.1.1 silent for 9 min
    → terwayctl leases
  ! drift  address came back

  POD           ADDRESS  STATE      RENEWS  IFACE
  c0ffeec0ffee  -        acquiring  -       tw3f9a1c00aa11
"""
    )


@pytest.mark.parametrize(
    ("changes", "line", "code"),
    [
        ({}, "ready: 0 pods", 0),
        ({"findings": [FINDING]}, "ready: 0 pods, lease-lost(1)", 0),
        ({"state": "degraded", "findings": [FINDING, FINDING]}, "degraded: lease-lost(2)", 4),
        ({"state": "starting", "host": None}, "starting", 4),
        (
            {"state": "down", "reason": "no NIC has\x1b[2J a default route"},
            "down: no NIC has\\x1b[2J a default route",
            4,
        ),
    ],
)
def test_brief(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], line: str, code: int
) -> None:
    assert ask(tmp_path, status(**changes), "status", "--brief") == code
    assert capsys.readouterr().out == line + "\n"


def test_down_without_a_host(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = status(state="down", reason="no NIC has a default route", host=None, since=time.time() + 60)
    assert ask(tmp_path, answer, "status") == 4
    assert capsys.readouterr().out == (
        "✘ terwayd 1.0.0  down, 0 pods\n  no NIC has a default route\n    → terwayctl setup\n  config  /etc/terway.toml\n"
    )


def test_json_is_the_answer_with_a_schema(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = status(pod())
    assert ask(tmp_path, answer, "status", "--json") == 0
    assert list(json.loads(capsys.readouterr().out).items()) == [("schema", 1), *answer.items()]


@pytest.mark.parametrize("wanted", ["default/b", "b", "beef"])
def test_one_pod(tmp_path: Path, capsys: pytest.CaptureFixture[str], wanted: str) -> None:
    answer = status(pod("a"), pod("b", container_id="beef" * 16, expires_in=None))
    assert ask(tmp_path, answer, "status", wanted) == 0
    assert (
        capsys.readouterr().out
        == f"""\
default/b  bound
  address    192.168.1.123/24  gw 192.168.1.1
  dhcp       from 192.168.1.1, renews in 5h 02m, never expires
  interface  eth0 02:42:c0:a8:01:7b, on the host tw3f9a1c00aa11
  container  {"beef" * 16}
  network    terway
"""
    )


def test_one_pod_decides_the_exit_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = status(pod("a"), pod("b", **ACQUIRING))
    assert ask(tmp_path, answer, "status", "b", "--json") == 4
    assert [one["name"] for one in json.loads(capsys.readouterr().out)["pods"]] == ["b"]


def test_unknown_pod(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(tmp_path, status(pod("a")), "status", "nope") == 1
    assert (
        capsys.readouterr().err
        == "error: no pod or container nope is attached here\nhint: terwayctl status\n"
    )


def test_leases(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = {
        "leases": [lease("web", expires_in=None), lease("\u202egnp\x1b]0;x", state="renewing", renews_in=0)]
    }
    assert ask(tmp_path, answer, "leases") == 0
    assert (
        capsys.readouterr().out
        == """\
POD                        ADDRESS           MAC                SERVER       STATE     RENEWS  EXPIRES
default/web                192.168.1.123/24  02:42:c0:a8:01:7b  192.168.1.1  bound     5h 02m  never
default/\\u202egnp\\x1b]0;x  192.168.1.123/24  02:42:c0:a8:01:7b  192.168.1.1  renewing  now     11h 05m
"""
    )


def test_lease_of_one_pod(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(tmp_path, {"leases": [lease("web"), lease("other")]}, "leases", "show", "web") == 0
    assert (
        capsys.readouterr().out
        == """\
default/web  bound
  address    192.168.1.123/24
  gateway    192.168.1.1
  server     192.168.1.1
  acquired   1h 01m ago
  renews in  5h 02m
  expires in 11h 05m
  mac        02:42:c0:a8:01:7b
  client id  00ff
  hostname   web
  dns        192.168.1.1 9.9.9.9
  domain     -
  search     a.example b.example
  routes     10.0.0.0/8 via 192.168.1.2
  ntp        -
  mtu        -
  option 66  tftp.example
  option 150 c0000201
  option 43  -
"""
    )


def test_leases_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = {"leases": [lease()]}
    assert ask(tmp_path, answer, "leases", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"schema": 1, **answer}


@pytest.mark.parametrize("how", ["as_json=True", "brief=True", "pod='web'"])
def test_rich_is_for_terminals_only(tmp_path: Path, how: str) -> None:
    code = (
        "import sys; from cli import status; from cli.client import Client\n"
        f"status.run(Client({str(tmp_path / 's')!r}), {how})\n"
        "sys.exit(','.join({'rich', 'typer', 'pyroute2'} & set(sys.modules)) or 0)"
    )
    with serving(tmp_path / "s", canned(Status=status(pod("web")))):
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.stderr, done.returncode) == ("", 0)


def shown(tmp_path: Path, answer: dict[str, Any], columns: int, **environment: str) -> str:
    """What `status` writes to a terminal that wide."""
    with serving(tmp_path / "s", canned(Status=answer)):
        return on_terminal(["--socket", str(tmp_path / "s"), "status"], columns, **environment)


def test_terminal_has_colours_unless_told_otherwise(tmp_path: Path) -> None:
    assert "\x1b[32mbound" in shown(tmp_path, status(pod()), 100)
    assert "\x1b[32m" not in shown(tmp_path, status(pod()), 100, NO_COLOR="1")
    assert "\x1b" not in shown(tmp_path, status(pod()), 100, TERM="dumb")


def test_narrow_terminal_folds_and_hides_nothing(tmp_path: Path) -> None:
    written = shown(tmp_path, status(pod("p" * 60 + "end"), pod("[red]\x1b[5m")), 80, NO_COLOR="1")
    assert "192.168.1.123/24" in written
    assert "end" in written
    assert "…" not in written
    assert "[red]" in written.replace("\r\n", "")
    assert "\x1b[5m" not in written
