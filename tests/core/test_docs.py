"""What README and docs/ say is so: keys, error texts, commands, checks, metrics, links, and files in them.

Blocks that are run for real are read out by `block` and `to_run`, in tests anywhere; every command of the
documents is in one of them, or in NOT_RUN.
"""

from __future__ import annotations

import ast
import json
import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from cli.main import app
from terwayd import config
from terwayd.health import CHECKS
from terwayd.metrics import Facts, Metrics, Process, render
from tests.runtime.podman import CONTAINERS

ROOT = Path(__file__).parents[2]
DOCS = sorted([*(ROOT / "docs").glob("*.md"), ROOT / "README.md", ROOT / "README.zh-CN.md"])
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?:^ {4}(?! ?[●│|✔✘!→-]).*\n)+", re.MULTILINE)
MARKER = re.compile(r"<!-- (run: [\w-]+) -->\n\n\Z")

# The commands of the documents that no test runs, by why.
NOT_RUN = {
    "neither kubeadm nor kube-apiserver nor kubelet is in Debian": [
        "kubeadm init --config cluster.yaml",
        "kubeadm join 192.168.0.10:6443 --token ... --discovery-token-ca-cert-hash sha256:...",
        "kubeadm reset --force",
    ],
    "they fetch from a registry: the image that is run is made in the test": [
        "ctr images pull docker.io/library/busybox:latest"
    ],
    "nerdctl is not in Debian": [
        "nerdctl run --detach --name web --network terway docker.io/library/busybox:latest sleep infinity",
        "nerdctl inspect web --format '{{.NetworkSettings.IPAddress}}'",
    ],
    "they are typed on ESXi, or where VMware Workstation runs": [
        "esxcli network vswitch standard portgroup policy security set -p 'VM Network'"
        " --allow-promiscuous=true --allow-forged-transmits=true",
        "esxcli network vswitch standard portgroup policy security get -p 'VM Network'",
        "esxcli system settings advanced set -o /Net/ReversePathFwdCheckPromisc -i 1",
        "chmod a+rw /dev/vmnet0",
    ],
    "they run the tests, look at the sources, and measure": ["make test", "make check", "make bench"],
}
UNRUN = {command for commands in NOT_RUN.values() for command in commands}


def read(name: str) -> str:
    return (ROOT / name).read_text()


def block(name: str, marker: str) -> str:
    """The code block of a document that stands after the comment `<!-- MARKER -->`."""
    text = read(name).partition(f"<!-- {marker} -->")[2]
    fence, indented = FENCE.search(text), INDENTED.search(text)
    if fence and (not indented or fence.start() < indented.start()):
        return fence[2]
    assert indented is not None, f"{name}: nothing after {marker}"
    return re.sub(r"^ {4}", "", indented[0], flags=re.MULTILINE)


def commands_of(text: str) -> list[str]:
    """The command lines of a block, without comments."""
    lines = (re.split(r"(?:^|\s+)#\s", line)[0].strip() for line in text.replace("\\\n", " ").splitlines())
    return [re.sub(r"\s+", " ", line) for line in lines if line]


def to_run(name: str, marker: str) -> list[str]:
    """The command lines of a block that are to be run, as they are written."""
    return [line for line in commands_of(block(name, marker)) if line not in UNRUN]


def blocks_of_commands(path: Path) -> list[tuple[str, list[str]]]:
    """The blocks of a document that are to be typed, each with the marker before it, "" for none.

    A script counts as one command.
    """
    text = path.read_text()
    found = [(match.start(), [match[2]]) for match in FENCE.finditer(text) if match[1] == "sh"]
    outside = FENCE.sub(lambda match: re.sub(r"[^\n]", "`", match[0]), text)  # of the same length
    found += [(match.start(), commands_of(match[0])) for match in INDENTED.finditer(outside)]
    markers = [(MARKER.search(text, 0, start), commands) for start, commands in found]
    return [(marker[1] if marker else "", commands) for marker, commands in markers]


def test_every_command_runs_in_a_test() -> None:
    """Or is in NOT_RUN: then it is run nowhere, and there."""
    named = {str(path.relative_to(ROOT)): blocks_of_commands(path) for path in DOCS}
    markers = {(name, marker) for name, blocks in named.items() for marker, _ in blocks if marker}
    sources = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("*.py"))
    read_by_a_test = set(re.findall(r'"([\w./-]+\.md)",\s*"(run: [\w-]+)"', sources))
    assert markers - read_by_a_test == set(), "no test reads these"
    every = {command for blocks in named.values() for _, commands in blocks for command in commands}
    run = {
        command for blocks in named.values() for marker, commands in blocks if marker for command in commands
    }
    assert every - (run - UNRUN) == UNRUN


def fenced(language: str) -> list[tuple[str, str]]:
    return [
        (path.name, found[2])
        for path in DOCS
        for found in FENCE.finditer(path.read_text())
        if found[1] == language
    ]


def test_the_reference_has_every_key_with_its_default() -> None:
    text = read("docs/configuration.md")
    told: dict[str, dict[str, Any]] = {}
    for section, body in re.findall(r"^## \[(\w+)\].*?\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL):
        rows = re.findall(r"^\| `(\w+)` \| `(.*?)` \|", body, re.MULTILINE)
        told[section] = {key: tomllib.loads(f"x = {value}")["x"] for key, value in rows}
    made = config.parse("\n".join(f"{section}.{key} = {json.dumps(value)}" for section in told for key, value in told[section].items()))  # fmt: skip
    assert made == config.Config()
    assert {section: list(keys) for section, keys in told.items()} == {
        section: list(keys) for section, keys in config.values(config.Config()).items()
    }


@pytest.mark.parametrize(("name", "text"), fenced("toml"))
def test_configurations_are_right(name: str, text: str) -> None:
    if "network_backend" in text:  # podman's
        assert text == CONTAINERS
    else:
        assert config.parse(text) != config.Config()


def sources() -> list[str]:
    """Every text in the sources; what is filled in is a NUL."""
    found = []
    for path in [*(ROOT / "terwayd").rglob("*.py"), *(ROOT / "cli").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else "\0" for part in node.values)
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def quoted() -> list[str]:
    """The pieces of every error text that troubleshooting.md and the README quote in the first column."""
    text = read("docs/troubleshooting.md").partition("## What the doctor checks")[0]
    cells = re.findall(r"^\| (.+?) \|", text, re.MULTILINE)
    spans = [span for cell in cells for span in re.findall(r"`(.+?)`", cell)]
    return sorted({piece.strip() for span in spans for piece in span.split("...") if len(piece.strip()) > 2})


def test_error_texts_are_those_of_the_sources() -> None:
    known = sources()
    pieces = [piece for piece in quoted() if not piece.startswith("terwayctl ")]
    assert len(pieces) > 30
    assert [piece for piece in pieces if not any(piece in text for text in known)] == []


def test_every_check_of_the_doctor_is_told_of() -> None:
    table = read("docs/troubleshooting.md").partition("## What the doctor checks")[2]
    assert re.findall(r"^\| `([\w-]+)` \| (\w+) \|", table, re.MULTILINE) == [
        (check.code, check.group) for check in CHECKS
    ]


def test_every_code_of_status_is_told_of() -> None:
    codes = set()
    for path in (ROOT / "terwayd").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args:
                first = node.args[0]
                if node.func.id in ("Trouble", "_finding") and isinstance(first, ast.Constant):
                    codes.add(str(first.value))
    told = re.findall(r"^\| code `([\w-]+)` \|", read("docs/troubleshooting.md"), re.MULTILINE)
    assert sorted(told) == sorted(codes)


def names_of_metrics() -> set[str]:
    metrics = Metrics()
    metrics.dhcp_message("sent", "DISCOVER")
    metrics.cni("ADD", 0, 1.0)
    facts = Facts("1", "ready", {"bound": 1}, Process(0, 0, 0, 0), 1, 1.0, 1.0, {("a", "error"): 1})
    return set(re.findall(r"^# TYPE (\w+)", render(metrics, facts), re.MULTILINE))


def test_metrics_are_those_that_there_are() -> None:
    known = names_of_metrics()
    assert set(re.findall(r"`(terway_\w+)`", read("docs/metrics.md"))) == known
    for name in ("docs/alerts.yml", "docs/grafana.json"):
        used = {re.sub(r"_(bucket|sum|count)$", "", each) for each in re.findall(r"terway_\w+", read(name))}
        assert used
        assert used <= known, name


def test_alerts_and_dashboard() -> None:
    rules = [rule for group in yaml.safe_load(read("docs/alerts.yml"))["groups"] for rule in group["rules"]]
    assert all({"alert", "expr", "labels", "annotations"} <= rule.keys() for rule in rules)
    panels = json.loads(read("docs/grafana.json"))["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert all(target["expr"] for panel in panels for target in panel["targets"])


@pytest.mark.parametrize(("name", "text"), fenced("yaml"))
def test_yaml_is_yaml(name: str, text: str) -> None:
    assert all(yaml.safe_load_all(text))


@pytest.mark.parametrize(("name", "text"), fenced("sh"))
def test_scripts_are_scripts(name: str, text: str) -> None:
    subprocess.run(["bash", "-n"], input=text.encode(), check=True)


def commands() -> list[tuple[str, str]]:
    """Every command line of terwayctl in code, with where it is written."""
    found = []
    for path in DOCS:
        text = path.read_text()
        code = [match[0] for match in INDENTED.finditer(text)] + [match[2] for match in FENCE.finditer(text)]
        lines = [line for each in code for line in each.splitlines()] + re.findall(r"`([^`\n]+)`", text)
        for line in lines:
            match = re.match(r"\s*(?:- |\$ |ansible\.builtin\.command: )?(terwayctl [a-z][^#;&|`]*)", line)
            if match and "..." not in match[1]:
                found.append((path.name, match[1].strip()))
    return sorted(set(found))


@pytest.mark.parametrize(("name", "line"), commands())
def test_commands_are_understood(name: str, line: str) -> None:
    """typer takes the words; nothing is done."""
    words = shlex.split(line)[1:]
    group: Any = typer.main.get_command(app)
    context = group.make_context("terwayctl", list(words), resilient_parsing=True)
    rest = list(words)
    while hasattr(group, "commands"):
        if not rest:
            return  # the name of a group alone
        group = group.get_command(context, rest.pop(0))
        assert group is not None, line
    group.make_context(line, rest)


def links() -> list[tuple[Path, str]]:
    return [
        (path, target)
        for path in DOCS
        for target in re.findall(r"\]\(([^)#:]+)(?:#[\w-]*)?\)", path.read_text())
    ]


@pytest.mark.parametrize(("path", "target"), links())
def test_links_lead_somewhere(path: Path, target: str) -> None:
    assert (path.parent / target).exists()


def test_tests_that_are_named_are_there() -> None:
    named = {each for path in DOCS for each in re.findall(r"\btests/[\w/]+(?:\.py)?", path.read_text())}
    assert len(named) > 5
    assert [each for each in named if not (ROOT / each).exists()] == []


def test_every_document_is_found_from_the_readme() -> None:
    assert {path.name for path in (ROOT / "docs").glob("*.md")} <= {
        Path(target).name for _, target in links()
    }


def test_no_line_ends_in_spaces() -> None:
    assert [path.name for path in DOCS if re.search(r"[ \t]$", path.read_text(), re.MULTILINE)] == []
