"""`make demo`: terwayd on a LAN of this machine's namespaces, from an untouched node and back to it.

Real things only: Debian's dnsmasq, the daemon, the CNI plugin run as a container runtime runs it, pings over the
wire; what breaks is broken for real.  Nothing outside of the namespaces is touched.  Exit status 0 when every step
came out as it must, 1 when one did not (it is named at the end), 130 when interrupted.  With `--keep` it waits while
the pods run, for a look around.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from types import FrameType

from tests.demo.figures import Figures, total
from tests.demo.screen import Screen, Stopped
from tests.lab import Lan, Loss, Node, Pod, ShimError, State, eventually

INTRO = """\
terwayd gives every pod a real address of the LAN.  This demo builds a LAN inside
this machine (in network namespaces: the machine's own network is not touched), runs
terwayd on two nodes of it, breaks this and that, and puts all back.

    gateway .1, DHCP server    plain host .2     node n1 .11     node n2 .12
               |                     |                |               |
    ===========+=====================+====[switch]====+===============+=====
                               192.168.77.0/24
"""
PODS = ("web-0", "web-1", "db-0")
PROBE_MS = 5.0
CONFIG = '[dhcp]\ntimeout = "3s"   # not the minute it is by default: nobody likes to wait in a demo\n'


class Demo:
    """The steps, in order.  `logs` is what the daemons said, kept for the case that a step failed."""

    def __init__(self, screen: Screen, keep: bool) -> None:
        self.screen = screen
        self.keep = keep
        self.figures = Figures()
        self.logs: list[tuple[str, str]] = []
        self.status = ""
        self.pods: list[Pod] = []
        self.before: dict[str, State] = {}

    def run(self) -> None:
        links = own_links()
        try:
            with contextlib.ExitStack() as stack:
                self.screen.section("A LAN")
                with self.screen.step("a switch, a gateway with a DHCP server, a plain host") as row:
                    lan = stack.enter_context(Lan())
                    assert lan.host.ping(lan.world), "the host does not reach the world beyond the gateway"
                    row.result = f"{lan.net}, {lan.net6}"
                try:
                    self.on_lan(lan)
                finally:
                    self.logs = lan.report() if any(row.ok is False for row in self.screen.steps) else []
        finally:
            self.screen.section("Afterwards")
            with self.screen.step("this machine has the network interfaces it had", needed=False) as row:
                assert own_links() == links, "they differ"
                row.result = "the LAN is gone, nothing left"

    def on_lan(self, lan: Lan) -> None:
        screen = self.screen
        nodes = []
        for name in ("n1", "n2"):
            with screen.step(f"node {name}: a static address on eth0, terwayd installed") as row:
                node = lan.node(name, CONFIG)
                nodes.append(node)
                self.before[name] = node.state()
                row.result = node_address(node)
        with screen.watching(lan):
            screen.section("terwayd takes the nodes' NIC under a bridge")
            for node in nodes:
                self.take_over(lan, node)
            screen.section("Pods get addresses from the LAN's DHCP server")
            for node in nodes:
                for name in PODS:
                    self.attach(lan, node, name)
            self.reach(lan)
            screen.section("Things break, and heal")
            self.lose_the_server(lan, nodes[0])
            self.pull_the_nic(lan, nodes[0])
            self.kill_the_daemon(lan, nodes[1])
            self.all_well(lan)
            if self.keep:
                with screen.paused():
                    look_around(lan, self.pods)
            screen.section("Pods leave")
            self.detach(lan)
            screen.section("terwayd gives the nodes back")
            for node in nodes:
                self.give_back(lan, node)

    def take_over(self, lan: Lan, node: Node) -> None:
        what = f"the daemon starts on {node.name}, pinged every {PROBE_MS:g} ms"
        with self.screen.step(what) as row:
            with watched(lan, node, self.figures.takeover) as losses:
                begin = time.perf_counter()
                node.start_daemon().wait_ready()
                seconds = time.perf_counter() - begin
            self.figures.ready.append(seconds)
            eth0 = node.ip_json("link show dev eth0")[0]
            assert eth0.get("master") == "mybr0", "eth0 is not a port of mybr0"
            assert node.mac_of("mybr0") == eth0["address"], "mybr0 does not carry the MAC of eth0"
            row.result = f"ready in {seconds * 1000:.0f} ms; lost: {told(losses)}"

    def attach(self, lan: Lan, node: Node, name: str) -> None:
        self.join(lan, node.pod(name, namespace=f"team-{node.name}"))

    def join(self, lan: Lan, pod: Pod) -> None:
        with self.screen.step(f"pod {pod.pod_name} on {pod.node.name}") as row:
            pod.add()
            address = pod.address
            lease = lan.dhcp.lease_of(address)
            assert lease is not None, f"the DHCP server has no lease for {address}"
            assert lease.mac == pod.mac, f"the lease of {address} is for {lease.mac}, the pod is {pod.mac}"
            self.figures.attach.append(pod.seconds)
            self.pods.append(pod)
            row.result = f"{address}, leased to {lease.hostname or lease.mac}"

    def reach(self, lan: Lan) -> None:
        self.screen.section("Everyone reaches everyone")
        node_of = {pod.name: pod.node for pod in self.pods}

        def other(pod: Pod) -> Pod:
            return next(peer for peer in self.pods if peer.node is not node_of[pod.name])

        checks: tuple[tuple[str, Callable[[Pod], bool]], ...] = (
            ("the plain host reaches every pod", lambda pod: lan.host.ping(pod.address)),
            ("every pod is reached from its own node", lambda pod: pod.node.ping(pod.address)),
            ("every pod is reached from a pod of the other node", lambda pod: other(pod).ping(pod.address)),
            ("every pod reaches the gateway", lambda pod: pod.ping(lan.gateway_ip)),
            ("every pod reaches the world beyond it", lambda pod: pod.ping(lan.world)),
        )
        for what, check in checks:
            with self.screen.step(what, needed=False) as row:
                silent = [pod.name for pod in self.pods if not check(pod)]
                assert not silent, f"not {', '.join(silent)}"
                row.result = f"{len(self.pods)} of {len(self.pods)}"
        self.all_well(lan)

    def all_well(self, lan: Lan) -> None:
        for node in lan.nodes:
            with self.screen.step(f"`terwayctl status` on {node.name} finds all well", needed=False) as row:
                done = node.terwayctl("status", check=False)
                self.status = done.stdout if node is lan.nodes[0] else self.status
                assert done.returncode == 0, f"exit status {done.returncode}: {done.stdout} {done.stderr}"
                row.result = "exit status 0"

    def lose_the_server(self, lan: Lan, node: Node) -> None:
        pod, late = (
            next(pod for pod in self.pods if pod.node is node),
            node.pod("late-0", f"team-{node.name}"),
        )
        renew = ("leases", "renew", pod.pod_name)
        with self.screen.step("the DHCP server is killed: a renewal fails, the pods do not") as row:
            lan.dhcp.stop(signal.SIGKILL)
            done = node.terwayctl(*renew, check=False)
            assert done.returncode == 1, f"exit status {done.returncode}: {done.stdout}"
            assert "it goes on as it was" in done.stderr, done.stderr
            silent = [each.name for each in self.pods if not lan.host.ping(each.address)]
            assert not silent, f"not reached any more: {', '.join(silent)}"
            row.result = f"{len(self.pods)} of {len(self.pods)} answer"
        with self.screen.step("a new pod is refused, and told why") as row:
            row.result = refusal(late)
            assert "no OFFER came back" in row.result, row.result
        with self.screen.step("the server is back: the lease is renewed") as row:
            lan.dhcp.start()
            row.result = node.terwayctl(*renew).stdout
        self.join(lan, late)

    def pull_the_nic(self, lan: Lan, node: Node) -> None:
        def master() -> object:
            return node.ip_json("link show dev eth0")[0].get("master")

        with self.screen.step(f"eth0 of {node.name} is pulled out of the bridge, pods pinged") as row:
            with self.pinged(lan, node, self.figures.pulled) as losses:
                begin = time.perf_counter()
                node.ip("link set eth0 nomaster")
                eventually(lambda: master() == "mybr0", 10.0, "eth0 is a port of mybr0 again", 0.005)
                self.figures.mended.append(time.perf_counter() - begin)
            codes = [finding["code"] for finding in node.status()["findings"]]
            assert "mended" in codes, f"status does not tell of it: {codes}"
            row.result = f"mended in {self.figures.mended[-1] * 1000:.0f} ms; lost: {total(losses)}"

    def kill_the_daemon(self, lan: Lan, node: Node) -> None:
        def leases() -> list[tuple[str, str]]:
            return [(lease["name"], lease["address"]) for lease in node.api("Leases")["leases"]]

        with self.screen.step(f"the daemon on {node.name} is killed, and started again") as row:
            before, asked = leases(), len(lan.dhcp.messages())
            assert node.daemon is not None
            with self.pinged(lan, node, self.figures.killed) as losses:
                node.daemon.kill9()
                silent = [pod.name for pod in self.pods if not lan.host.ping(pod.address)]
                begin = time.perf_counter()
                node.start_daemon().wait_ready()
                self.figures.restarted.append(time.perf_counter() - begin)
            assert not silent, f"not reached without the daemon: {', '.join(silent)}"
            assert leases() == before, f"other leases than {before}: {leases()}"
            spoken = len(lan.dhcp.messages()) - asked
            ready = f"ready in {self.figures.restarted[-1] * 1000:.0f} ms"
            row.result = f"{ready}; {spoken} DHCP messages; lost: {total(losses)}"

    @contextlib.contextmanager
    def pinged(self, lan: Lan, node: Node, into: list[Loss]) -> Iterator[list[Loss]]:
        """Ping the pods of a node from the plain host for the time of the block; the losses are there after it."""
        losses: list[Loss] = []
        with contextlib.ExitStack() as stack:
            pods = [pod for pod in self.pods if pod.node is node]
            probes = [stack.enter_context(lan.host.probe(pod.address, PROBE_MS)) for pod in pods]
            yield losses
            losses += [probe.stop() for probe in probes]
        into += losses

    def detach(self, lan: Lan) -> None:
        count = len(self.pods)
        with self.screen.step(f"{count} pods are deleted") as row:
            for pod in self.pods:
                pod.delete()
                pod.remove()
                self.figures.detach.append(pod.seconds)
            row.result = f"{count} of {count}"
        with self.screen.step("the DHCP server got every lease back", needed=False) as row:
            eventually(lambda: not lan.dhcp.leases(), 2.0, "no lease is left")
            released = len(lan.dhcp.messages("DHCPRELEASE"))
            assert released == count, f"{released} DHCPRELEASE for {count} pods"
            row.result = f"{released} released, {len(lan.dhcp.leases())} held"

    def give_back(self, lan: Lan, node: Node) -> None:
        with self.screen.step(f"`terwayctl teardown` on {node.name}, pinged all the while") as row:
            with watched(lan, node, self.figures.giveback) as losses:
                node.terwayctl("teardown")
            row.result = f"lost: {told(losses)}"
        with self.screen.step(f"{node.name} has the addresses, routes and MAC it had", needed=False) as row:
            before = self.before[node.name]
            # Its link-local address is tested for a duplicate again, which takes the kernel up to two seconds.
            eventually(lambda: not before.diff(node.state()), 5.0, "the same state")
            row.result = f"{len(before.addresses)} addresses, {len(before.routes)} routes alike"
        if row.ok is False:
            row.result = "differs: " + "; ".join(before.diff(node.state()))
        with self.screen.step(f"the daemon on {node.name} ends when it is told to", needed=False) as row:
            assert node.daemon is not None
            code = node.daemon.term()
            assert code == 0, f"exit status {code}"
            row.result = "exit status 0"


def refusal(pod: Pod) -> str:
    """What the plugin says to a pod that it cannot attach."""
    try:
        pod.add()
    except ShimError as error:
        return error.msg
    return "it was not refused"


def look_around(lan: Lan, pods: list[Pod]) -> None:
    """Tell how to get a shell on each machine, and wait for Enter (or the end of input)."""
    print("\nThe LAN stays up until you press Enter.  As root, from another terminal:\n")
    places = [("plain host", lan.host), ("gateway", lan.gateway)]
    for name, place in [
        *places,
        *((node.name, node) for node in lan.nodes),
        *((pod.name, pod) for pod in pods),
    ]:
        print(f"    {name:22} {shlex.join(place.enter[:-1])} sh")
    print(
        "\nThere, on a node: `terwayctl status --watch`, `terwayctl leases`, `ip addr`; from the host: `ping` a pod."
        "\nTo leave: press Enter here.  Then the pods go, and the nodes are given back.",
        flush=True,
    )
    sys.stdin.readline()


@contextlib.contextmanager
def watched(lan: Lan, node: Node, into: list[tuple[str, Loss]]) -> Iterator[list[tuple[str, Loss]]]:
    """Ping a node's addresses from the plain host for the time of the block; the losses are there after it."""
    losses: list[tuple[str, Loss]] = []
    number = 11 + lan.nodes.index(node)
    with (
        lan.host.probe(f"192.168.77.{number}", PROBE_MS) as probe4,
        lan.host.probe(f"fd77::{number}", PROBE_MS) as probe6,
    ):
        yield losses
    losses += [("IPv4", probe4.stop()), ("IPv6", probe6.stop())]
    into += losses


def told(losses: list[tuple[str, Loss]]) -> str:
    return ", ".join(f"{family} {len(loss.lost)} of {loss.sent}" for family, loss in losses)


def node_address(node: Node) -> str:
    infos = node.ip_json("-4 addr show dev eth0")[0]["addr_info"]
    return ", ".join(f"{info['local']}/{info['prefixlen']}" for info in infos)


def own_links() -> str:
    """The interfaces of the machine that the demo runs on."""
    return subprocess.run(["ip", "-br", "link"], capture_output=True, text=True, check=True).stdout


def interrupted(number: int, _: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Run the demo; the exit status."""
    parser = argparse.ArgumentParser(prog="demo", description="terwayd on a LAN of network namespaces")
    parser.add_argument(
        "--keep", action="store_true", help="wait for Enter while the pods run, for a look around"
    )
    options = parser.parse_args()
    if os.geteuid() != 0:
        print(
            "error: the demo makes network namespaces and needs root\nhint: sudo make demo", file=sys.stderr
        )
        return 6
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupted)
    begin = time.perf_counter()
    print(INTRO, flush=True)
    screen = Screen()
    demo = Demo(screen, options.keep)
    try:
        with screen, contextlib.suppress(Stopped):
            demo.run()
    except KeyboardInterrupt:
        print("\nInterrupted; the LAN and everything in it is gone.", file=sys.stderr)
        return 130
    return summary(demo, time.perf_counter() - begin)


def summary(demo: Demo, seconds: float) -> int:
    if demo.status:
        print("\nWhat `terwayctl status` said on n1 with its pods:\n")
        print("\n".join(f"    {line}" for line in demo.status.splitlines()))
    if lines := demo.figures.lines():
        print(
            "\nFigures (the DHCP server answers at once: it does not ping an address before it offers it)\n"
        )
        print("\n".join(f"    {name:58} {value}" for name, value in lines))
    failed = [row for row in demo.screen.steps if row.ok is False]
    if not failed:
        print(f"\nAll {len(demo.screen.steps)} steps came out as they must, in {seconds:.1f} s.")
        return 0
    for title, log in demo.logs:
        print(f"\n--- {title}, the end of its log", file=sys.stderr)
        print("\n".join(log.splitlines()[-40:]), file=sys.stderr)
    print(f"\n{len(failed)} of {len(demo.screen.steps)} steps failed, in {seconds:.1f} s:", file=sys.stderr)
    for row in failed:
        print(f"  {row.what}: {row.result}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
