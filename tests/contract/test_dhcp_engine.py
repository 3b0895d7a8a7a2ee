"""The engine and its packet socket against a real dnsmasq.

Each test runs one of the `check_...` functions below in a process of its own, which has its own network,
mount and PID namespaces: `lan` (a gateway with dnsmasq), the node (`mybr0` over `eth0`), and a pod where
the kernel must answer for the address.  When that process ends, the kernel removes all of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Hashable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from terwayd.dhcp.engine import Engine
from terwayd.dhcp.lease import Lease
from terwayd.dhcp.messages import Identity
from terwayd.dhcp.outcome import Bound, Event, Lost, NoAnswer, Renewed
from terwayd.dhcp.table import State
from terwayd.errors import DhcpError
from terwayd.kernel.packet import PacketTransport

ROOT = Path(__file__).resolve().parents[2]
LEASES = Path("/run/leases")
POD_MAC = bytes.fromhex("02aa00000001")


def run(*command: str) -> None:
    subprocess.run(command, check=True)


def lan(*command: str) -> None:
    run("ip", "netns", "exec", "lan", *command)


def build_lan() -> None:
    run("mount", "-t", "tmpfs", "tmpfs", "/run")
    for name in ("lan", "pod"):
        run("ip", "netns", "add", name)
        run("ip", "-n", name, "link", "set", "lo", "up")
    run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "lan0", "netns", "lan")
    run("ip", "link", "add", "mybr0", "type", "bridge", "mcast_snooping", "0")
    run("ip", "link", "set", "eth0", "master", "mybr0")
    run("ip", "link", "set", "mybr0", "up")
    run("ip", "link", "set", "eth0", "up")
    lan("ip", "address", "add", "192.0.2.1/24", "dev", "lan0")
    lan("ip", "address", "add", "198.51.100.1/24", "dev", "lan0")
    lan("ip", "link", "set", "lan0", "up")


def build_pod(address: str) -> None:
    """A pod that answers ARP for its address, as the LAN's server will ask for it."""
    run("ip", "link", "add", "tw0", "type", "veth", "peer", "name", "eth0", "netns", "pod")
    run("ip", "-n", "pod", "link", "set", "eth0", "address", POD_MAC.hex(":"))
    run("ip", "link", "set", "tw0", "master", "mybr0", "up")
    run("ip", "-n", "pod", "link", "set", "eth0", "up")
    run("ip", "-n", "pod", "address", "add", address, "dev", "eth0")


@dataclass
class Server:
    """dnsmasq in `lan`; its lease file is the witness of what it thinks."""

    pool: str = "192.0.2.50,192.0.2.149"
    lease_time: str = "2m"
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = (
            "ip netns exec lan dnsmasq --keep-in-foreground --conf-file=/dev/null --port=0 --no-ping --no-hosts"
            f" --interface=lan0 --bind-dynamic --dhcp-authoritative --dhcp-leasefile={LEASES} --log-facility=/run/dnsmasq.log"
            f" --log-dhcp --user=root --pid-file= --dhcp-range={self.pool},255.255.255.0,{self.lease_time}"
            " --dhcp-option=option:dns-server,192.0.2.1 --dhcp-option=option:domain-search,lan.example,example"
            " --dhcp-option=121,0.0.0.0/0,192.0.2.1,10.0.0.0/8,192.0.2.2 --dhcp-option=option:mtu,1400"
            " --domain=lan.example"
        )
        self.process = subprocess.Popen(command.split())
        wait_for(
            lambda: b":67"
            in subprocess.run(
                ["ip", "netns", "exec", "lan", "ss", "-Hlun"], capture_output=True, check=True
            ).stdout
        )

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(5)
            self.process = None

    def leases(self) -> dict[str, str]:
        """Address to MAC, as in the lease file."""
        lines = [line.split() for line in LEASES.read_text().splitlines()] if LEASES.exists() else []
        return {line[2]: line[1] for line in lines if len(line) == 5}


def wait_for(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{inspect.getsource(condition).strip()} did not come true"
        time.sleep(0.01)


async def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{inspect.getsource(condition).strip()} did not come true"
        await asyncio.sleep(0.005)


@dataclass
class Node:
    """An engine on eth0 with a clock that can be moved, and all events it told of."""

    offset: float = 0.0
    events: list[tuple[Hashable, Event]] = field(default_factory=list)
    downs: list[OSError] = field(default_factory=list)
    engine: Engine = field(init=False)
    transport: PacketTransport = field(init=False)

    def clock(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME) + self.offset

    def pass_time(self, seconds: float) -> None:
        self.offset += seconds
        self.engine.wake()

    def told(self, kind: type[Event]) -> list[Event]:
        return [event for _, event in self.events if isinstance(event, kind)]


@contextlib.asynccontextmanager
async def node(offset: float = 0.0) -> AsyncIterator[Node]:
    it = Node(offset)
    it.transport = PacketTransport("eth0", asyncio.get_running_loop(), on_down=it.downs.append)
    it.engine = Engine(
        it.transport,
        clock=it.clock,
        rng=random.Random(),
        on_event=lambda key, event: it.events.append((key, event)),
    )
    try:
        yield it
    finally:
        it.engine.close()


def pod(number: int) -> Identity:
    mac = bytes.fromhex("02bb0000") + number.to_bytes(2, "big")
    return Identity(mac, b"\x00pod-%d" % number, f"pod-{number}", "terwayd")


Running = tuple[asyncio.Task[Lease], int, State]
THE_POD = Identity(POD_MAC, b"\x00the-pod", "the-pod", "terwayd")


async def check_fifty_at_once(server: Server) -> None:
    server.start()
    async with node() as it:
        began = time.perf_counter()
        leases = await asyncio.gather(*(it.engine.acquire(n, pod(n), timeout=10) for n in range(50)))
        took = time.perf_counter() - began
        assert len({lease.address for lease in leases}) == 50
        assert server.leases() == {
            str(lease.address.ip): pod(n).mac.hex(":") for n, lease in enumerate(leases)
        }
        lease = leases[0]
        assert lease.address.network == IPv4Network("192.0.2.0/24")
        assert lease.server == IPv4Address("192.0.2.1")
        assert lease.routers == ()  # option 121 is there
        assert lease.routes == (
            (IPv4Network("0.0.0.0/0"), IPv4Address("192.0.2.1")),
            (IPv4Network("10.0.0.0/8"), IPv4Address("192.0.2.2")),
        )
        assert (lease.dns, lease.domain, lease.mtu) == ((IPv4Address("192.0.2.1"),), "lan.example", 1400)
        assert lease.search == ("lan.example", "example")
        assert len(asyncio.all_tasks()) == 1  # no task stays for a lease
        assert it.events == []
        for n in range(50):
            it.engine.release(n)
        await until(lambda: server.leases() == {})
        assert it.engine.keys() == ()
        times = []
        for n in range(100, 150):
            start = time.perf_counter()
            await it.engine.acquire(n, pod(n), timeout=5)
            times.append((time.perf_counter() - start) * 1000)
        print(
            f"50 at once: {took * 1000:.1f} ms; one after the other: p50 {statistics.median(times):.2f} ms, max {max(times):.2f} ms"
        )


async def check_renew_and_rebind(server: Server) -> None:
    server.start()
    async with node() as it:
        lease = await it.engine.acquire("pod", THE_POD, timeout=5)
        build_pod(str(lease.address))
        it.pass_time(61)
        await until(lambda: len(it.told(Renewed)) == 1)
        assert it.engine.state("pod") is State.BOUND
        renewed = it.engine.lease("pod")
        assert renewed is not None
        assert renewed.address == lease.address
        assert renewed.expires_at > lease.expires_at + 60
        lan(
            "nft",
            "add table ip t; add chain ip t i { type filter hook input priority 0; };"
            " add rule ip t i ip daddr 192.0.2.1 udp dport 67 counter drop",
        )
        it.pass_time(61)
        await asyncio.sleep(0.2)
        assert it.engine.state("pod") is State.RENEWING
        assert len(it.told(Renewed)) == 1
        it.pass_time(renewed.rebind_at - it.clock())
        assert it.engine.state("pod") is State.REBINDING
        await until(lambda: len(it.told(Renewed)) == 2)
        assert [event.state for event in it.told(NoAnswer) if isinstance(event, NoAnswer)] == [State.RENEWING]
        assert it.engine.state("pod") is State.BOUND
        rules = subprocess.run(
            ["ip", "netns", "exec", "lan", "nft", "list", "ruleset"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert "packets 0" not in rules.stdout  # the renewal was sent to the server alone


async def check_expiry(server: Server) -> None:
    server.start()
    async with node() as it:
        lease = await it.engine.acquire("pod", THE_POD, timeout=5)
        server.stop()
        it.pass_time(61)
        it.pass_time(120)
        assert it.engine.lease("pod") is None
        assert [event.lease for event in it.told(Lost) if isinstance(event, Lost)] == [lease]
        server.start()
        await until(lambda: len(it.told(Bound)) == 1)
        again = it.engine.lease("pod")
        assert again is not None
        assert again.address == lease.address  # it asked for the old one


async def check_nak_after_the_range_moved(server: Server) -> None:
    server.start()
    async with node() as it:
        lease = await it.engine.acquire("pod", THE_POD, timeout=5)
    server.stop()
    LEASES.unlink()
    lan("ip", "address", "del", "192.0.2.1/24", "dev", "lan0")
    server.pool = "198.51.100.50,198.51.100.149"
    server.start()
    async with node(offset=61) as it:
        it.engine.adopt("pod", THE_POD, lease)
        assert it.engine.state("pod") is State.INIT_REBOOT
        await until(lambda: len(it.told(Bound)) == 1)
        assert [type(event) for _, event in it.events] == [Lost, Bound]
        again = it.engine.lease("pod")
        assert again is not None
        assert again.address.ip in IPv4Network("198.51.100.0/24")


async def check_restart(server: Server) -> None:
    server.start()
    async with node() as it:
        lease = await it.engine.acquire("pod", THE_POD, timeout=5)
        assert server.leases() == {str(lease.address.ip): POD_MAC.hex(":")}
    async with node() as it:
        it.engine.adopt("pod", THE_POD, lease)
        assert it.engine.state("pod") is State.BOUND
        assert it.engine.lease("pod") == lease
        assert await it.engine.acquire("pod", THE_POD, timeout=5) == lease  # asked again: the same
    async with node(offset=61) as it:
        it.engine.adopt("pod", THE_POD, lease)
        assert it.engine.state("pod") is State.INIT_REBOOT
        await until(lambda: len(it.told(Renewed)) == 1)
        renewed = it.engine.lease("pod")
        assert renewed is not None
        assert renewed.address == lease.address
        it.engine.forget("pod")
        assert server.leases() != {}
        it.engine.release_lease(THE_POD, renewed)
        await until(lambda: server.leases() == {})


async def check_nobody_answers_and_cancelling(server: Server) -> None:
    async with node() as it:
        with pytest.raises(DhcpError, match=r"\d DISCOVERs sent in \d s, no OFFER came back") as caught:
            await it.engine.acquire("pod", THE_POD, timeout=1.6)
        assert "tcpdump" in caught.value.hint
        assert it.engine.keys() == ()
        server.start()
        # Cancelled while a REQUEST is under way, and when the lease has just come: the server keeps none.
        receive = it.transport.on_frame
        for number, enough in enumerate((State.SELECTING, State.REQUESTING, State.BOUND) * 3):
            task = asyncio.create_task(it.engine.acquire(number, pod(number), timeout=5))

            def receive_and_cancel(
                frame: bytes | memoryview, ready: bool, run: Running = (task, number, enough)
            ) -> None:
                receive(frame, ready)
                if it.engine.state(run[1]) is run[2]:
                    run[0].cancel()

            it.transport.on_frame = receive_and_cancel
            if enough is State.SELECTING:
                await asyncio.sleep(0)
                task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        it.transport.on_frame = receive
        assert it.engine.keys() == ()
        # What comes last is served last: after this one, the server has seen all of the above.
        lease = await it.engine.acquire("pod", THE_POD, timeout=5)
        assert server.leases() == {str(lease.address.ip): POD_MAC.hex(":")}


async def check_link_down_and_up(server: Server) -> None:
    server.start()
    async with node() as it:
        run("ip", "link", "set", "eth0", "down")
        await until(lambda: len(it.downs) == 1)
        task = asyncio.create_task(it.engine.acquire("pod", THE_POD, timeout=8))
        await asyncio.sleep(0.1)
        run("ip", "link", "set", "eth0", "up")
        lease = await task
        # The interface is removed and comes back as another one of the same name.
        run("ip", "link", "del", "eth0")
        await until(lambda: len(it.downs) == 2)
        run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "lan0", "netns", "lan")
        run("ip", "link", "set", "eth0", "master", "mybr0", "up")
        lan("ip", "address", "add", "192.0.2.1/24", "dev", "lan0")
        lan("ip", "link", "set", "lan0", "up")
        it.transport.rebind("eth0")
        assert (await it.engine.acquire("other", pod(1), timeout=8)).address != lease.address


CHECKS = [name for name in dict(globals()) if name.startswith("check_")]


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.skipif(os.geteuid() != 0, reason="makes namespaces: needs root")
def test_engine(check: str) -> None:
    command = [
        *["unshare", "--net", "--mount", "--pid", "--mount-proc", "--fork", "--kill-child"],
        *(sys.executable, "-m", __name__, check),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    print(done.stdout, done.stderr)
    assert done.returncode == 0, done.stderr


def main(check: str) -> None:
    logging.basicConfig(level=logging.DEBUG)
    build_lan()
    server = Server()
    try:
        asyncio.run(globals()[check](server))
    except BaseException:
        log = Path("/run/dnsmasq.log")
        print(log.read_text()[-6000:] if log.exists() else "no dnsmasq ran", file=sys.stderr)
        raise
    finally:
        server.stop()


if __name__ == "__main__":
    main(sys.argv[1])
