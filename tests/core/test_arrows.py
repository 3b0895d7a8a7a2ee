"""Who may import whom: the pure core knows no system, each library has one door, arrows point one way."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = [*sorted((ROOT / "terwayd").rglob("*.py")), *sorted((ROOT / "cli").rglob("*.py"))]

SYSTEM = {
    *("asyncio", "ctypes", "fcntl", "multiprocessing", "os", "pathlib", "posix", "select", "selectors"),
    *("shutil", "signal", "socket", "sqlite3", "subprocess", "tempfile", "threading", "time"),
    *("pyroute2", "rich", "systemd", "typer"),
}
PURE = [
    *("terwayd.metrics", "terwayd.health", "terwayd.dhcp.survey", "terwayd.doctor", "terwayd.doctor.checks"),
    *("terwayd.doctor.facts", "terwayd.doctor.firewall", "terwayd.doctor.lan"),
    *("terwayd", "terwayd.codec", "terwayd.config", "terwayd.errors", "terwayd.events", "terwayd.model"),
    *("terwayd.bpf", "terwayd.keys"),
    *(
        "terwayd.cni",
        "terwayd.cni.asked",
        "terwayd.cni.protocol",
        "terwayd.dhcp",
        "terwayd.dhcp.client",
        "terwayd.dhcp.conflict",
        "terwayd.dhcp.deadlines",
        "terwayd.dhcp.exchange",
        "terwayd.dhcp.outcome",
        "terwayd.dhcp.receiver",
        "terwayd.dhcp.frame",
    ),
    *("terwayd.dhcp.journal", "terwayd.dhcp.lease", "terwayd.dhcp.messages", "terwayd.dhcp.options"),
    *("terwayd.dhcp.packet", "terwayd.dhcp.table", "terwayd.host", "terwayd.host.plan"),
    *("terwayd.host.adopt", "terwayd.host.drift", "terwayd.host.words"),
    *("terwayd.host.lease", "terwayd.host.managers"),
    *(
        "terwayd.host.addressing",
        "terwayd.host.commands",
        "terwayd.host.dependants",
        "terwayd.host.interfaces",
        "terwayd.host.moves",
        "terwayd.host.steps",
        "terwayd.host.uplink",
        "terwayd.pods",
        "terwayd.pods.identity",
    ),
    *(
        "terwayd.pods.attached",
        "terwayd.pods.cached",
        "terwayd.pods.routes",
        "terwayd.pods.ruleset",
        "terwayd.pods.sending",
        "terwayd.pods.services",
        "terwayd.pods.static",
    ),
]
DOORS = {"pyroute2": "terwayd.kernel.netlink", "systemd": "terwayd.systemd", "rich": "cli.render"}
# What a package may import of terwayd beside itself: what begins like one of these.
ALLOWED = {
    "terwayd.dhcp": ("terwayd.errors", "terwayd.bpf"),
    "terwayd.kernel": ("terwayd.errors", "terwayd.model", "terwayd.bpf", "terwayd.dhcp.frame"),
}
# What a package must not import: it stands below these.
FORBIDDEN = {
    "terwayd.host": ("terwayd.pods", "terwayd.cni", "terwayd.api", "terwayd.node", "terwayd.daemon"),
    "terwayd.pods": ("terwayd.cni", "terwayd.api", "terwayd.node", "terwayd.daemon"),
    "terwayd.cni": ("terwayd.api", "terwayd.node", "terwayd.daemon"),
    "terwayd.running": ("terwayd.guard", "terwayd.cni", "terwayd.api", "terwayd.node", "terwayd.daemon"),
    "terwayd.guard": ("terwayd.cni", "terwayd.api", "terwayd.node", "terwayd.daemon"),
    "terwayd.condition": ("terwayd.host", "terwayd.pods", "terwayd.running", "terwayd.api", "terwayd.node"),
    "terwayd.probation": ("terwayd.pods", "terwayd.cni", "terwayd.api", "terwayd.node", "terwayd.daemon"),
    "terwayd.api": ("terwayd.daemon",),
    "terwayd": ("cli", "terwayctl"),
}
SHIM = {"__future__", "_json", "_socket", "posix", "sys", "time"}


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in SOURCES}


def imports(source: str, module: str, *, package: bool = False, inner: bool = True) -> set[str]:
    """Every module that `source` imports by its full name; `inner`: also those imported in functions."""
    return {name for node in statements(ast.parse(source), inner) for name in named(node, module, package)}


def statements(tree: ast.Module, inner: bool) -> Iterator[ast.AST]:
    yield from ast.walk(tree) if inner else tree.body


def named(node: ast.AST, module: str, package: bool) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        above = module.split(".")[: None if package and node.level == 1 else -(node.level - package)]
        base = ".".join([*above, *([node.module] if node.module else [])]) if node.level else node.module
        assert base is not None
        # `from terwayd.host import plan` imports terwayd.host.plan, `from terwayd.host import x` does not.
        yield from {f"{base}.{a.name}" if f"{base}.{a.name}" in MODULES else base for a in node.names}


def imports_of(module: str) -> set[str]:
    path = MODULES[module]
    return imports(path.read_text(), module, package=path.name == "__init__.py")


def below(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def wrong_door(module: str, imported: set[str]) -> set[str]:
    return {x for x in imported for library, door in DOORS.items() if below(x, library) and module != door}


def impure(imported: set[str]) -> set[str]:
    """What a pure module must not import: the system, and terwayd's own that is not pure."""
    return {
        name
        for name in imported
        if below(name, *SYSTEM) or (below(name, "terwayd", "cli") and name not in PURE)
    }


def against_the_arrow(module: str, imported: set[str]) -> set[str]:
    found = set()
    for package, allowed in ALLOWED.items():
        if below(module, package):
            found |= {x for x in imported if below(x, "terwayd", "cli") and not below(x, package, *allowed)}
    for package, forbidden in FORBIDDEN.items():
        if below(module, package):
            found |= {x for x in imported if below(x, *forbidden)}
    return found


def test_the_modules_are_there() -> None:
    assert set(PURE) <= set(MODULES)
    assert set(DOORS.values()) <= set(MODULES)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_what_it_may(module: str) -> None:
    imported = imports_of(module)
    assert not wrong_door(module, imported)
    assert not against_the_arrow(module, imported)
    if module in PURE:
        assert not impure(imported)


def test_each_library_is_used_at_its_door() -> None:
    for library, door in DOORS.items():
        assert any(below(name, library) for name in imports_of(door)), f"{door} does not import {library}"


def test_the_shim_imports_built_in_modules_only() -> None:
    source = (ROOT / "cli/shim.py").read_text()
    assert imports(source, "cli.shim", inner=False) <= SHIM
    assert imports(source, "cli.shim") - SHIM == {"json"}, "json is for errors, and imported there"


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("terwayd.host.plan", "import socket"),
        ("terwayd.host.plan", "def f():\n    from os import path"),
        ("terwayd.host.plan", "from terwayd.host import apply"),
        ("terwayd.pods.routes", "from terwayd.store import Store"),
        ("terwayd.cni.protocol", "from .install import conflist"),
        ("terwayd.model", "import asyncio.events"),
    ],
)
def test_an_impure_import_is_seen(module: str, source: str) -> None:
    assert impure(imports(source, module))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("terwayd.dhcp.engine", "from terwayd.model import Link"),
        ("terwayd.kernel.packet", "from terwayd.dhcp.packet import Message"),
        ("terwayd.host.takeover", "from terwayd.pods import identity"),
        ("terwayd.pods.attach", "import terwayd.cni.protocol"),
        ("terwayd.pods.attach", "from ..node import Node"),
        ("terwayd.cni.verbs", "from terwayd.api import varlink"),
        ("terwayd.condition", "from terwayd.node import Node"),
        ("terwayd.offline", "from cli import setup"),
    ],
)
def test_an_arrow_the_wrong_way_is_seen(module: str, source: str) -> None:
    assert against_the_arrow(module, imports(source, module))


def test_a_library_at_the_wrong_door_is_seen() -> None:
    assert wrong_door(
        "terwayd.kernel.arp", imports("from pyroute2.netlink import nlmsg", "terwayd.kernel.arp")
    )
    assert wrong_door("terwayd.host.apply", imports("import pyroute2", "terwayd.host.apply"))
    assert not wrong_door("terwayd.kernel.netlink", {"pyroute2"})
