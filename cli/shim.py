#!/usr/bin/python3 -IS
"""cni-terway, the CNI plugin: hands a call of the container runtime to terwayd and prints its answer.

One file that a runtime starts for every pod, so it imports built-in modules only and knows nothing
of the network: environment and stdin go over as they came, the network namespace as an open
descriptor (SCM_RIGHTS).  The parameters of the reply are the CNI result, so they are printed
unparsed.  Its own errors are CNI errors too (CNI specification 1.1.0, section 5).
"""

from __future__ import annotations

import _socket
import posix
import sys
import time
from _json import encode_basestring_ascii as quote

SOCKET = "/run/terwayd.sock"  # not to be had from the environment: a caller must not choose the answerer
VERSIONS = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]
MAX_STDIN = 1 << 20  # bytes
CONNECT_S = 5.0  # a daemon that restarts is back by then
ANSWER_S = 300.0  # more than the daemon takes for an ADD, whatever its cni.add_timeout
LOOK_S = 1.0  # how often it is seen whether the runtime is still there
RESULT = b'{"parameters":'
FAILURE = b'{"error":"io.terway.CniFailed","parameters":'

TRY_AGAIN, BAD_ENVIRONMENT, IO_FAILURE, INVALID_CONFIG, INTERNAL = 11, 4, 5, 7, 999


class CallError(Exception):
    """A CNI error: code, message, and the next command to type."""


def read_stdin() -> bytes:
    """The network configuration; nothing when a person has typed the command at a terminal."""
    data = b""
    try:
        while not posix.isatty(0) and (chunk := posix.read(0, 65536)):
            data += chunk
            if len(data) > MAX_STDIN:
                raise CallError(
                    INVALID_CONFIG, f"the network configuration on stdin exceeds {MAX_STDIN} bytes", ""
                )
    except OSError as error:
        raise CallError(
            IO_FAILURE, f"cannot read the network configuration from stdin: {error.strerror}", ""
        ) from None
    return data


def open_netns(command: bytes, path: bytes) -> int | None:
    """The pod's network namespace; a DEL works without it, since the pod may be gone already."""
    if not path or command not in (b"ADD", b"CHECK", b"DEL"):
        return None
    try:
        return posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NONBLOCK)
    except (OSError, ValueError) as error:
        if command == b"DEL":
            return None
        name = path.decode("utf-8", "replace")
        raise CallError(BAD_ENVIRONMENT, f"CNI_NETNS: cannot open {name}: {error.args[-1]}", "") from None


def connect(patience: float) -> _socket.socket:
    """A connection to the daemon; waits up to `patience` seconds while it restarts or its queue is full."""
    deadline = time.monotonic() + patience
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    while True:
        try:
            connection.settimeout(ANSWER_S)
            connection.connect(SOCKET)
            return connection
        except (ConnectionRefusedError, BlockingIOError) as error:
            if time.monotonic() > deadline:
                raise CallError(
                    TRY_AGAIN,
                    f"terwayd does not answer on {SOCKET}: {error.strerror}",
                    "systemctl restart terwayd",
                ) from None
            time.sleep(0.02)
        except FileNotFoundError:
            raise CallError(
                TRY_AGAIN, f"terwayd is not running: {SOCKET} does not exist", "systemctl start terwayd"
            ) from None
        except OSError as error:
            raise CallError(IO_FAILURE, f"cannot connect to {SOCKET}: {error.strerror}", "") from None


def call(connection: _socket.socket, request: bytes, netns: int | None) -> bytes:
    """One Varlink exchange: the reply without its final NUL."""
    deadline, runtime = time.monotonic() + ANSWER_S, posix.getppid()
    rights = (
        [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, netns.to_bytes(4, sys.byteorder))]
        if netns is not None
        else []
    )
    reply = b""
    try:
        sent = connection.sendmsg([request], rights)  # the descriptor travels with the first byte
        if sent < len(request):
            connection.sendall(request[sent:])
        while not reply.endswith(b"\0"):
            connection.settimeout(max(0.001, min(LOOK_S, deadline - time.monotonic())))
            try:
                chunk = connection.recv(1 << 18)
            except TimeoutError:
                if posix.getppid() != runtime:  # the daemon undoes an ADD, then
                    raise CallError(TRY_AGAIN, "the runtime is gone", "") from None
                if time.monotonic() < deadline:
                    continue
                raise
            if not chunk:
                raise CallError(
                    TRY_AGAIN, "terwayd closed the connection before it answered", "journalctl -u terwayd"
                )
            reply += chunk
    except TimeoutError:
        raise CallError(
            TRY_AGAIN, f"terwayd did not answer within {ANSWER_S:.0f} s", "terwayctl status"
        ) from None
    except OSError as error:
        raise CallError(
            TRY_AGAIN, f"lost the connection to terwayd: {error.strerror}", "journalctl -u terwayd"
        ) from None
    return reply[:-1]


def write(text: bytes) -> None:
    while text:
        text = text[posix.write(1, text) :]


def ask_daemon(command: bytes, environment: dict[bytes, bytes], stdin: bytes) -> int:
    """Hand the call over and print what comes back; returns the exit status."""
    netns = open_netns(command, environment.get(b"CNI_NETNS", b""))

    def text(data: bytes) -> str:
        return quote(data.decode("utf-8", "surrogateescape"))

    variables = ",".join(f"{text(k)}:{text(v)}" for k, v in environment.items())
    request = (
        f'{{"method":"io.terway.Cni","parameters":{{"environment":{{{variables}}},"stdin":{text(stdin)}}}}}\0'
    )
    patience = 0.0 if command == b"VERSION" else CONNECT_S  # that is answered without the daemon, too
    reply = call(connect(patience), request.encode("ascii"), netns)
    if reply.startswith(RESULT):
        if (result := reply[len(RESULT) : -1]) != b"{}":
            write(result + b"\n")
        return 0
    if reply.startswith(FAILURE):
        write(reply[len(FAILURE) : -1] + b"\n")
        return 1
    raise CallError(INTERNAL, "terwayd refused the call: " + reply[:500].decode("utf-8", "replace"), "")


def answer_alone(command: bytes, stdin: bytes, failure: BaseException) -> int:
    """Print a CNI error, or the answer to a VERSION that needs no daemon; returns the exit status."""
    import json  # costs as much as all of the above, so only here

    version = "1.1.0"
    try:  # noqa: SIM105 (contextlib is one import more)
        version = str(json.loads(stdin)["cniVersion"] or version)
    except (ValueError, TypeError, KeyError, RecursionError):
        pass  # an error has to be told all the same
    if command == b"VERSION":
        write(json.dumps({"cniVersion": version, "supportedVersions": VERSIONS}).encode() + b"\n")
        return 0
    if isinstance(failure, CallError):
        code, message, hint = failure.args
    else:
        code, message, hint = INTERNAL, f"{type(failure).__name__}: {failure}", ""
    reply = {"cniVersion": version, "code": code, "msg": message}
    if hint:
        reply["details"] = "hint: " + hint
    write(json.dumps(reply).encode() + b"\n")
    return 1


def main() -> int:
    """What the runtime asked for; returns the exit status."""
    environment = {k: v for k, v in posix.environ.items() if k.startswith(b"CNI_")}
    command = environment.get(b"CNI_COMMAND", b"")
    if not command:
        about = (
            f"cni-terway: gives pods an address of the LAN, by terwayd\nCNI versions: {', '.join(VERSIONS)}\n"
        )
        posix.write(2, about.encode())
        return 0
    stdin = b""
    try:
        stdin = read_stdin()
        return ask_daemon(command, environment, stdin)
    except Exception as failure:  # whatever it is, the runtime gets it as a CNI error
        return answer_alone(command, stdin, failure)


if __name__ == "__main__":
    try:
        status = main()
    except (OSError, KeyboardInterrupt):  # nobody reads any more, or someone at a terminal gave up
        status = 1
    posix._exit(status)  # nothing is left to clean up
