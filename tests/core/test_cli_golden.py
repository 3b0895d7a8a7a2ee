"""Every command's output, plain, as JSON and on a terminal, as the files in golden/ hold it.

After a change that is meant: `GOLDEN=write python3 -m pytest tests/core/test_cli_golden.py`, and read the difference.
What is printed with --json is also what docs/schema.json says, for every command that there is.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import typer

from cli.entry import main
from cli.main import app
from tests.core.cli_server import canned, failed, lease, on_terminal, pod, serving, status

GOLDEN = Path(__file__).with_name("golden")
SCHEMA = json.loads((Path(__file__).parents[2] / "docs/schema.json").read_text())

PODS = (pod(), pod("coredns-abc", namespace="kube-system", address="192.168.1.124/24", renews_in=4322))
ACQUIRING = dict.fromkeys(("address", "gateway", "server", "renews_in", "expires_in")) | {
    "state": "selecting"
}
NONE: dict[str, Any] = dict.fromkeys(("address", "gateway", "server", "renews_in", "expires_in"))
FINDINGS = [
    {
        "code": "lease-lost",
        "severity": "error",
        "message": "default/web-7c9f-x2k: 192.168.1.123 is lost: the lease ended and no server extended it; "
        "the address is kept",
        "hint": "journalctl -u terwayd",
    },
    {
        "code": "mended",
        "severity": "warning",
        "message": "10:03:11: eth0 was not under mybr0",
        "hint": "journalctl -u terwayd",
    },
]
SICK = status(
    pod(**NONE, state="selecting"),
    pod("", namespace=""),
    state="degraded",
    reason=FINDINGS[0]["message"],
    findings=FINDINGS,
)
PLAN = {
    "uplink": "eth0",
    "bridge": "mybr0",
    "steps": [
        {"command": "ip link add mybr0 type bridge stp_state 0", "undo": "ip link del mybr0"},
        {"command": "ip link set eth0 master mybr0", "undo": "ip link set eth0 nomaster"},
    ],
    "warnings": ["dhclient runs on eth0"],
    "changes": True,
}
DONE = {"uplink": "eth0", "bridge": "mybr0", "changed": True, "steps": 14, "milliseconds": 22.4}
CONFIG = {
    "path": "/etc/terway.toml",
    "config": {
        "host": {"uplink": "auto", "bridge": "br1", "verify": ["gateway"]},
        "pods": {"default_route": True, "mtu": 0},
    },
}
METRICS = r"""# HELP terway_findings What terwayctl status finds wrong.
# TYPE terway_findings gauge
terway_findings{code="a \"b\"\\\n",severity="error"} 1
# HELP terway_dhcp_acquire_seconds From the first DISCOVER to the lease.
# TYPE terway_dhcp_acquire_seconds histogram
terway_dhcp_acquire_seconds_bucket{le="0.0025"} 1
terway_dhcp_acquire_seconds_bucket{le="+Inf"} 2
terway_dhcp_acquire_seconds_sum 1000.002
terway_dhcp_acquire_seconds_count 2
"""
FILES = {"files": ["/opt/cni/bin/cni-terway", "/etc/cni/net.d/10-terway.conflist"]}


@dataclass(frozen=True)
class Case:
    """A command line, what the daemon answers to it, and the exit status."""

    words: str
    replies: dict[str, Any] = field(default_factory=dict)
    code: int = 0
    json: bool = True

    @property
    def command(self) -> str:
        """Its name in the schema."""
        words = self.words.split()
        return " ".join(
            words[: 2 if words[0] in ("config", "cni", "metrics") or words[1:2] == ["show"] else 1]
        )


CASES = {
    "status": Case("status", {"Status": status(*PODS)}),
    "status-sick": Case("status", {"Status": SICK}, 4),
    "status-brief": Case("status --brief", {"Status": SICK}, 4, json=False),
    "status-pod": Case("status coredns-abc", {"Status": status(*PODS)}),
    "status-pod-dropped": Case(
        "status web",
        {"Status": status(pod("web", dropped=12), pod("web", namespace="", network="lan", dropped=1))},
    ),
    "status-down": Case(
        "status", {"Status": status(state="down", reason="no NIC has a default route", host=None)}, 4
    ),
    "pods": Case("pods", {"Status": status(*PODS)}),
    "leases": Case("leases", {"Leases": {"leases": [lease("web"), lease("db", expires_in=None)]}}),
    "leases-show": Case("leases show web", {"Leases": {"leases": [lease("web"), lease("db")]}}),
    "leases-renew": Case(
        "leases renew web",
        {"Leases": {"leases": [lease("web")]}, "RenewLease": {"lease": lease("web", expires_in=43200)}},
    ),
    "leases-release": Case(
        "leases release web",
        {
            "Leases": {"leases": [lease("web")]},
            "ReleaseLease": {"lease": lease("web", address="192.168.1.140/24")},
        },
    ),
    "setup": Case("setup", {"Setup": {**DONE, "confirm_within": 90.0}}),
    "setup-dry-run": Case("setup --dry-run", {"Plan": PLAN}, 4),
    "setup-rolled-back": Case(
        "setup",
        {"Setup": failed("192.168.1.1 did not answer", "look at the cable", "RolledBack")},
        5,
        json=False,
    ),
    "reload": Case("reload", {"Reload": {"applied": ["dhcp.timeout"], "waiting": ["host.bridge"]}}),
    "confirm": Case("confirm", {"Confirm": {}}),
    "rollback": Case("rollback", {"Rollback": DONE}),
    "teardown": Case("teardown", {"Teardown": DONE}),
    "teardown-dry-run": Case("teardown --dry-run", {"Plan": PLAN}, 4),
    "config-show": Case("config show", {"Config": CONFIG}),
    "metrics-print": Case("metrics print", {"Metrics": {"text": METRICS}}),
    "metrics-write": Case("metrics write terwayd.prom", {"Metrics": {"text": METRICS}}),
    "cni-install": Case("cni install", {"InstallCni": FILES}),
    "cni-uninstall": Case("cni uninstall", {"UninstallCni": FILES}),
}


@pytest.fixture(autouse=True)
def noon(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An hour of which the ages in the files are; nobody's SSH session; a directory for what is written."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(time, "time", lambda: 1_800_000_000.0)
    monkeypatch.setenv("SSH_CONNECTION", "not over ssh")


def replies(case: Case) -> dict[str, Any]:
    """What the daemon answers, at that hour."""

    def at_noon(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {name: at_noon(item, name) for name, item in value.items()}
        if isinstance(value, list):
            return [at_noon(item) for item in value]
        return {"since": 1_799_700_000.0, "acquired": 1_799_996_300.0}.get(key, value)

    made: dict[str, Any] = at_noon(case.replies)
    return made


def run(tmp_path: Path, case: Case, *more: str) -> int:
    with serving(tmp_path / "s", canned(**replies(case))):
        return main(["--socket", str(tmp_path / "s"), *case.words.split(), *more])


def held(name: str, text: str) -> None:
    """What `text` should be is in golden/NAME."""
    file = GOLDEN / name
    if os.environ.get("GOLDEN") == "write":
        file.write_text(text)
    assert text == file.read_text()


@pytest.mark.parametrize("name", CASES)
def test_plain(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert run(tmp_path, CASES[name]) == CASES[name].code
    shown = capsys.readouterr()
    held(f"{name}.txt", shown.out + shown.err)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.json])
def test_json(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert run(tmp_path, CASES[name], "--json") == CASES[name].code
    shown = capsys.readouterr()
    held(f"{name}.json", shown.out)
    assert shown.err == ""
    validate(CASES[name].command, json.loads(shown.out))


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("name", ["status-sick", "leases", "pods", "config-show"])
def test_terminal(tmp_path: Path, name: str, columns: int) -> None:
    case = CASES[name]
    with serving(tmp_path / "s", canned(**replies(case))):
        shown = on_terminal(["--socket", str(tmp_path / "s"), *case.words.split()], columns)
    # Run as a process of its own it has the real hour: the ages are another.
    held(f"{name}.{columns}", re.sub(r"\d+d \d\dh", "3d 11h", shown).replace("\r\n", "\n"))


def validate(command: str, document: Any) -> None:
    """That `document` is what the schema says of `command`."""
    reference = {"$ref": f"#/$defs/{command}", "$defs": SCHEMA["$defs"]}
    jsonschema.Draft202012Validator(reference).validate(document)


def commands(group: Any, above: tuple[str, ...] = ()) -> Iterator[str]:
    """Every command that takes --json."""
    for name, command in group.commands.items():
        if any("--json" in option.opts for option in command.params):
            yield " ".join((*above, name))
        if hasattr(command, "commands"):
            yield from commands(command, (*above, name))


def test_the_schema_knows_every_command() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    known = set(commands(typer.main.get_command(app)))
    assert len(known) > 12
    assert known <= set(SCHEMA["$defs"])


@pytest.mark.parametrize("change", [{"schema": 2}, {"state": "fine"}, {"more": 1}, {"pods": [{}]}])
def test_another_document_is_refused(change: dict[str, Any]) -> None:
    validate("status", {"schema": 1, **status(*PODS)})
    with pytest.raises(jsonschema.ValidationError):
        validate("status", {"schema": 1, **status(*PODS), **change})
