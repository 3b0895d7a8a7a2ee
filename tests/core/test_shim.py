"""The CNI plugin as a runtime starts it: a process with an environment, a stdin and a stdout.

The file is run as it is but for its constants: the socket lies in the test's directory.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from terwayd.cni.install import prepared
from tests.core.cli_server import Server, reply, serving

SHIM = Path(__file__).parents[2] / "cli" / "shim.py"
OWN_NETNS = "/proc/self/ns/net"
CONFIG = b'{"cniVersion":"0.4.0","name":"terway","type":"cni-terway"}'
RESULT = {
    "cniVersion": "0.4.0",
    "interfaces": [{"name": "eth0"}],
    "ips": [{"address": "192.168.0.3/24"}],
    "dns": {},
}


class Shim:
    """A copy of the plugin that talks to `socket`: as it is shipped, or as the daemon puts it in place."""

    def __init__(self, directory: Path, *, compiled: bool = False) -> None:
        self.compiled = compiled
        self.socket = directory / "sock"
        self.file = directory / "cni-terway"
        self.constants = {"SOCKET": repr(str(self.socket))}

    def start(self, command: str, stdin: Any = subprocess.PIPE, **variables: str) -> subprocess.Popen[bytes]:
        text = SHIM.read_text()
        for name, value in self.constants.items():
            line = next(line for line in text.splitlines() if line.startswith(f"{name} = "))
            text = text.replace(line, f"{name} = {value}", 1)
        self.file.write_bytes(prepared(text) if self.compiled else text.encode())
        environment = {"PATH": "/usr/bin:/bin", "SECRET": "x", **variables}
        if command:
            environment["CNI_COMMAND"] = command
        arguments = [sys.executable, "-IS", str(self.file)]
        return subprocess.Popen(arguments, stdin=stdin, stdout=-1, stderr=-1, env=environment)

    def run(self, command: str, config: bytes = CONFIG, **variables: str) -> tuple[int, bytes]:
        """Exit status and stdout; stderr has to be empty."""
        return finish(self.start(command, **variables), config)


def finish(process: subprocess.Popen[bytes], config: bytes = b"") -> tuple[int, bytes]:
    with process:
        out, err = process.communicate(config, timeout=20)
    assert err == b""
    return process.returncode, out


@pytest.fixture(params=[False, True], ids=["shipped", "in place"])
def shim(tmp_path: Path, request: pytest.FixtureRequest) -> Shim:
    return Shim(tmp_path, compiled=request.param)


@pytest.fixture
def daemon(shim: Shim) -> Iterator[Server]:
    with serving(shim.socket, lambda _call: reply(RESULT)) as server:
        yield server


def error(code: int, message: str, hint: str = "", version: str = "0.4.0") -> dict[str, Any]:
    details = {"details": f"hint: {hint}"} if hint else {}
    return {"cniVersion": version, "code": code, "msg": message, **details}


def test_add_hands_everything_over(shim: Shim, daemon: Server) -> None:
    config = CONFIG[:-1] + b',"odd":"\xff\xc3\xa4\\"\n\x01"}'
    variables = {"CNI_NETNS": OWN_NETNS, "CNI_IFNAME": "eth0", "CNI_ARGS": 'K="v";A=\\'}
    assert shim.run("ADD", config, **variables) == (
        0,
        json.dumps(RESULT, separators=(",", ":")).encode() + b"\n",
    )
    assert daemon.calls == [
        {
            "method": "io.terway.Cni",
            "parameters": {
                "environment": {"CNI_COMMAND": "ADD", **variables},
                "stdin": config.decode("utf-8", "surrogateescape"),
            },
        }
    ]
    assert daemon.inodes == [Path(OWN_NETNS).stat().st_ino]


@pytest.mark.parametrize("command", ["DEL", "CHECK", "GC", "STATUS"])
def test_an_empty_result_prints_nothing(shim: Shim, command: str) -> None:
    with serving(shim.socket, lambda _call: reply({})):
        assert shim.run(command, CNI_NETNS=OWN_NETNS) == (0, b"")


def test_a_failure_is_printed_as_it_came(shim: Shim) -> None:
    failure = {"cniVersion": "1.0.0", "code": 11, "msg": "no DHCP offer", "details": "hint: look"}
    with serving(shim.socket, lambda _call: reply(failure, "io.terway.CniFailed")):
        code, out = shim.run("ADD")
    assert (code, json.loads(out)) == (1, failure)


def test_del_of_a_pod_that_is_gone(shim: Shim, daemon: Server) -> None:
    assert shim.run("DEL", CNI_NETNS="/run/netns/gone-for-good")[0] == 0
    assert shim.run("DEL", CNI_NETNS="")[0] == 0
    assert (len(daemon.calls), daemon.inodes) == (2, [])


@pytest.mark.parametrize("command", ["ADD", "CHECK"])
def test_a_namespace_that_is_not_there(shim: Shim, daemon: Server, command: str) -> None:
    code, out = shim.run(command, CNI_NETNS="/run/netns/gone-for-good")
    message = "CNI_NETNS: cannot open /run/netns/gone-for-good: No such file or directory"
    assert (code, json.loads(out), daemon.calls) == (1, error(4, message), [])


def test_version_with_its_dummy_namespace_goes_to_the_daemon(shim: Shim, daemon: Server) -> None:
    assert shim.run("VERSION", CNI_NETNS="dummy", CNI_IFNAME="dummy", CNI_PATH="dummy")[0] == 0
    assert (len(daemon.calls), daemon.inodes) == (1, [])


@pytest.mark.parametrize(
    ("config", "version"),
    [(CONFIG, "0.4.0"), (b"", "1.1.0"), (b"[1]", "1.1.0"), (b'{"cniVersion":""}', "1.1.0")],
)
def test_version_without_a_daemon(shim: Shim, config: bytes, version: str) -> None:
    code, out = shim.run("VERSION", config)
    supported = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]
    assert (code, json.loads(out)) == (0, {"cniVersion": version, "supportedVersions": supported})


@pytest.mark.parametrize("command", ["ADD", "DEL", "CHECK", "GC", "STATUS"])
def test_no_daemon_is_told_at_once(shim: Shim, command: str) -> None:
    started = time.monotonic()
    code, out = shim.run(command, TERWAYD_SOCKET="/dev/null")
    expected = error(11, f"terwayd is not running: {shim.socket} does not exist", "systemctl start terwayd")
    assert (code, json.loads(out)) == (1, expected)
    assert time.monotonic() - started < 2


def test_a_restarting_daemon_is_waited_for(shim: Shim) -> None:
    """The queue of a listener that does not accept is full, as is a refusing one's: both mean later."""
    with socket.socket(socket.AF_UNIX) as listener, contextlib.ExitStack() as queue:
        listener.bind(str(shim.socket))
        listener.listen(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                waiting = queue.enter_context(socket.socket(socket.AF_UNIX))
                waiting.setblocking(False)
                waiting.connect(str(shim.socket))
        process = shim.start("STATUS", stdin=subprocess.DEVNULL)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.2)  # one that gives up at once would have ended by now
        anew = shim.socket.with_name("anew")
        with serving(anew, lambda _call: reply({})):
            anew.rename(shim.socket)  # there is one at each moment
            listener.close()
            assert finish(process) == (0, b"")


def test_a_dead_daemon_is_given_up(shim: Shim) -> None:
    shim.constants["CONNECT_S"] = "0.1"
    with serving(shim.socket, lambda _call: None):
        pass  # leaves its socket behind
    code, out = shim.run("ADD")
    message = f"terwayd does not answer on {shim.socket}: Connection refused"
    assert (code, json.loads(out)) == (1, error(11, message, "systemctl restart terwayd"))


def test_a_silent_daemon_is_given_up(shim: Shim) -> None:
    shim.constants["ANSWER_S"] = "0.2"
    released = threading.Event()

    def wait(_call: object) -> None:
        released.wait(10)

    with serving(shim.socket, wait):
        code, out = shim.run("ADD")
        released.set()
    assert (code, json.loads(out)) == (1, error(11, "terwayd did not answer within 0 s", "terwayctl status"))


@pytest.mark.parametrize("answer", [None, b'{"parameters":{"half'])
def test_a_daemon_that_dies(shim: Shim, answer: bytes | None) -> None:
    with serving(shim.socket, lambda _call: answer):
        code, out = shim.run("ADD")
    message = "terwayd closed the connection before it answered"
    assert (code, json.loads(out)) == (1, error(11, message, "journalctl -u terwayd"))


def test_an_answer_of_another_kind(shim: Shim) -> None:
    with serving(shim.socket, lambda _call: reply({}, "org.varlink.service.MethodNotFound")):
        code, out = shim.run("ADD")
    assert code == 1
    assert json.loads(out)["code"] == 999
    assert "MethodNotFound" in json.loads(out)["msg"]


def test_a_large_configuration(shim: Shim, daemon: Server) -> None:
    largest = b" " * ((1 << 20) - len(CONFIG)) + CONFIG
    assert shim.run("ADD", largest, CNI_NETNS=OWN_NETNS)[0] == 0
    assert daemon.calls[0]["parameters"]["stdin"].encode() == largest
    assert len(daemon.inodes) == 1
    with contextlib.suppress(BrokenPipeError):  # the shim need not read on
        code, out = shim.run("ADD", b" " + largest)
        message = "the network configuration on stdin exceeds 1048576 bytes"
        assert (code, json.loads(out)) == (1, error(7, message, version="1.1.0"))
    assert len(daemon.calls) == 1


def test_a_large_answer(shim: Shim) -> None:
    routes = {"routes": [{"dst": f"10.{n >> 8}.{n & 255}.0/24"} for n in range(50_000)]}
    with serving(shim.socket, lambda _call: reply(routes)):
        code, out = shim.run("ADD")
    assert (code, json.loads(out)) == (0, routes)


def test_an_unreadable_stdin(shim: Shim, daemon: Server, tmp_path: Path) -> None:
    with (tmp_path / "write-only").open("wb") as stdin:
        code, out = finish(shim.start("ADD", stdin=stdin))
    message = "cannot read the network configuration from stdin: Bad file descriptor"
    assert (code, json.loads(out), daemon.calls) == (1, error(5, message, version="1.1.0"), [])


def test_no_command_tells_what_this_is(shim: Shim) -> None:
    with shim.start("") as process:
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (0, b"")
    assert err.startswith(b"cni-terway: ")
    assert b"1.1.0" in err


def test_closed_stdout(shim: Shim, daemon: Server) -> None:
    process = shim.start("ADD")
    assert process.stdout
    assert process.stderr
    assert process.stdin
    process.stdout.close()
    process.stdin.write(CONFIG)
    process.stdin.close()
    with process:
        assert process.stderr.read() == b""
        assert process.wait(20) == 1


def test_imports_nothing_that_costs() -> None:
    imported = set()
    for node in ast.parse(SHIM.read_text()).body:
        if isinstance(node, ast.Import):
            imported |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(str(node.module))
    assert imported == {"__future__", "posix", "sys", "time", "_socket", "_json"}


def test_is_ready_to_install() -> None:
    assert SHIM.read_text().startswith("#!/usr/bin/python3 -IS\n")
    assert os.access(SHIM, os.X_OK)


def test_another_python_runs_its_text(shim: Shim) -> None:
    text = prepared(SHIM.read_text()).decode()
    magic = repr(importlib.util.MAGIC_NUMBER)
    assert text.count(magic) == 1
    other = text.replace(magic, repr(b"\0\0\0\0"))
    assert "loads(bytes.fromhex(CODE))" in other
    shim.file.write_text(other.replace("loads(bytes.fromhex(CODE))", "1 / 0"))
    done = subprocess.run(
        [sys.executable, "-IS", shim.file], env={"CNI_COMMAND": "VERSION"}, input=CONFIG, stdout=-1
    )
    assert json.loads(done.stdout)["cniVersion"] == "0.4.0"


INTERPRETERS = sorted(Path("/usr/bin").glob("python3.1[1-9]"))


@pytest.mark.parametrize("python", INTERPRETERS, ids=lambda path: path.name)
def test_costs_hardly_more_than_the_interpreter(shim: Shim, python: Path) -> None:
    """A whole call takes at most 1.3 times the processor time that python3 takes to do nothing."""
    shim.start("VERSION").communicate()  # writes the file

    def once(*words: str, **variables: str) -> float:
        command = [str(python), "-IS", *words]
        process = subprocess.Popen(command, env=variables, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        assert process.stdin
        process.stdin.write(CONFIG)
        process.stdin.close()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        return used.ru_utime + used.ru_stime

    with serving(shim.socket, lambda _call: reply({})):
        pairs = [
            (once(str(shim.file), CNI_COMMAND="ADD", CNI_NETNS=OWN_NETNS), once("-c", "pass"))
            for _ in range(40)
        ]
    call, nothing = map(min, zip(*pairs, strict=True))  # the runs that others disturbed the least
    print(f"{call * 1e3:.2f} ms, the interpreter alone {nothing * 1e3:.2f} ms")
    assert call <= 1.3 * nothing
