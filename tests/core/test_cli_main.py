"""The command line itself: usage, errors and their exit status, interruption, completion."""

from __future__ import annotations

import functools
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import cli.status  # noqa: F401 (before a test gives up the right to read it)
from cli.client import Client
from cli.entry import main
from cli.errors import DaemonUnavailable, exit_status
from cli.render import clean, duration
from terwayd import __version__
from tests.core.cli_server import canned, failed, pod, reply, serving, status

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "cli"]


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"terwayctl {__version__}\n"


def test_help_names_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["--help"], ["-h"]):
        assert main(words) == 0
        out = capsys.readouterr().out
        assert all(name in out for name in ("status", "leases", "setup", "teardown"))


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (["statsu"], "No such command 'statsu'.", "terwayctl status"),
        (["xyz"], "No such command 'xyz'.", "terwayctl --help"),
        (["status", "--wide"], "No such option: --wide", "terwayctl status --help"),
        (["leases", "shwo"], "No such command 'shwo'.", "terwayctl leases show"),
        (["leases", "show"], "Missing argument 'POD'.", "terwayctl leases show --help"),
        (["leases", "show", "a", "b"], "Got unexpected extra argument", "terwayctl leases show --help"),
        (["status", "--wait", "soon"], "--wait soon: not a time of up to a day", "--wait 60s"),
    ],
)
def test_usage(capsys: pytest.CaptureFixture[str], words: list[str], message: str, hint: str) -> None:
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert lines[0].startswith(f"error: {message}")
    assert lines[1] == f"hint: {hint}"


def test_no_daemon(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("status", "leases"):
        assert main(["--socket", str(tmp_path / "s"), command, "--json"]) == 3
        assert capsys.readouterr() == (
            "",
            f"error: terwayd is not running: {tmp_path}/s does not exist\nhint: systemctl start terwayd\n",
        )


def test_stale_socket(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(tmp_path / "s", canned()):
        pass
    assert main(["--socket", str(tmp_path / "s"), "status"]) == 3
    assert capsys.readouterr().err.endswith(
        f"nobody listens on {tmp_path}/s\nhint: systemctl start terwayd\n"
    )


def test_not_permitted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Root may do everything, so where the tests run as root this one becomes nobody."""
    user = os.geteuid()
    tmp_path.chmod(0)
    if user == 0:
        os.seteuid(65534)
    try:
        code = main(["--socket", str(tmp_path / "s"), "status", "a b"])
    finally:
        os.seteuid(user)
        tmp_path.chmod(0o700)
    assert code == 6
    assert capsys.readouterr().err == (
        f"error: no permission to use {tmp_path}/s\nhint: sudo terwayctl --socket {tmp_path}/s status 'a b'\n"
    )


@pytest.mark.parametrize(
    ("answer", "code", "told"),
    [
        (
            failed("bad key host.uplnk", "edit /etc/terway.toml", "ConfigError"),
            1,
            "error: bad key host.uplnk\nhint: edit",
        ),
        (failed("not for you", "", "NotPermittedError"), 6, "error: not for you\n"),
        (
            reply({}, "org.varlink.service.MethodNotFound"),
            1,
            "error: the running terwayd does not know Status\nhint: ",
        ),
        (
            reply({"parameter": "x"}, "org.varlink.service.InvalidParameter"),
            1,
            "error: Status failed: org.varlink",
        ),
        (b"{]\0", 1, "error: terwayd's answer to Status is not Varlink\n"),
        (b"[]\0", 1, "error: terwayd's answer to Status is not Varlink\n"),
        (
            b"half",
            3,
            "error: terwayd closed the connection before it answered Status\nhint: journalctl -u terwayd\n",
        ),
    ],
)
def test_what_the_daemon_may_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], answer: bytes, code: int, told: str
) -> None:
    with serving(tmp_path / "s", lambda _call: answer):
        assert main(["--socket", str(tmp_path / "s"), "status"]) == code
    assert capsys.readouterr().err.startswith(told)


def test_traceback_on_demand_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(tmp_path / "s", canned(Status={"pods": []})):  # not a Status: a bug somewhere
        assert main(["--socket", str(tmp_path / "s"), "status"]) == 1
        hint = f"hint: terwayctl --debug --socket {tmp_path}/s status\n"
        assert capsys.readouterr().err == f"error: KeyError: 'state'\n{hint}"
        assert main(["--socket", str(tmp_path / "s"), "status", "--debug"]) == 1
        assert capsys.readouterr().err.startswith("Traceback ")


def test_silent_daemon_is_given_up(tmp_path: Path) -> None:
    released = threading.Event()

    def wait(_call: object) -> None:
        released.wait(10)

    with serving(tmp_path / "s", wait):
        with pytest.raises(DaemonUnavailable, match="did not answer Status within 0 s") as caught:
            Client(str(tmp_path / "s")).call("Status", timeout=0.1)
        released.set()
    assert exit_status(caught.value) == 3


def test_interrupt_ends_quietly(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        listener.settimeout(20)
        command = [*COMMAND, "--socket", str(tmp_path / "s"), "status"]
        heeded = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # not so below nohup
        with subprocess.Popen(
            command, cwd=ROOT, stdout=-1, stderr=-1, text=True, preexec_fn=heeded
        ) as process:
            connection, _ = listener.accept()
            with connection:
                assert connection.recv(1)  # it has asked and waits for the answer now
                process.send_signal(signal.SIGINT)
                out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err.strip()) == (130, "", "")


@pytest.mark.parametrize("pods", [1, 500])  # less, and more, than is written at once
def test_broken_pipe_ends_quietly(tmp_path: Path, pods: int) -> None:
    command = [*COMMAND, "--socket", str(tmp_path / "s"), "status", "--json"]
    with (
        serving(tmp_path / "s", canned(Status=status(*[pod()] * pods))),
        subprocess.Popen(command, cwd=ROOT, stdout=-1, stderr=-1) as process,
    ):
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        assert process.stderr.read() == b""


def test_old_locale(tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [*COMMAND, "--socket", str(tmp_path / "s"), "status"]
    with serving(tmp_path / "s", canned(Status=status())):
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True)
    assert done.returncode == 0
    assert b"mybr0 \\u2190 eth0" in done.stdout


def test_completion() -> None:
    environment = {
        **os.environ,
        "_TERWAYCTL_COMPLETE": "complete_bash",
        "COMP_WORDS": "terwayctl s",
        "COMP_CWORD": "1",
    }
    done = subprocess.run(COMMAND, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert sorted(done.stdout.split()) == ["setup", "status"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "never"),
        (-5, "now"),
        (0.9, "now"),
        (59, "59s"),
        (60, "1m 00s"),
        (3599, "59m 59s"),
        (3600, "1h 00m"),
        (86399, "23h 59m"),
        (86400, "1d 00h"),
        (4294967294, "49710d 06h"),
    ],
)
def test_duration(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize("hostile", ["\x1b[2J", "\x9b5m", "a\nb", "\u202e", "\u200b", "\udcff", "\x7f", "\r"])
def test_clean_leaves_nothing_that_steers_a_terminal(hostile: str) -> None:
    assert clean(hostile).isprintable()
    assert clean(hostile).isascii()


def test_clean_leaves_text_alone() -> None:
    assert clean("Wohnzimmer-Küche ↔ 部屋") == "Wohnzimmer-Küche ↔ 部屋"
