"""The LAN: a switch, a gateway with the DHCP server, a plain host, and the nodes that are added.

    192.168.77.0/24, fd77::/64      .1 gateway   .2 host   .11, .12, ... nodes   .100 to .200 leased

Beyond the gateway there is one more address in each family (`Lan.world`), to tell a default route that works.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import ClassVar, TypeVar

from tests.lab.dhcp import DhcpConfig, DhcpServer
from tests.lab.errors import LabError, eventually
from tests.lab.machine import Machine, Place
from tests.lab.node import Node

M = TypeVar("M", bound=Machine)

NET4, NET6 = "192.168.77", "fd77:"
WORLD4, WORLD6 = "203.0.113.1", "2001:db8::1"


class Lan:
    """A LAN for the time of a `with` block.  `dhcp=None`: a LAN without a DHCP server."""

    live: ClassVar[list[Lan]] = []
    failures: ClassVar[list[tuple[str, str]]] = []

    gateway: Machine
    host: Machine
    switch: Machine
    dhcp: DhcpServer
    net, net6 = f"{NET4}.0/24", f"{NET6}:/64"
    gateway_ip, gateway_ip6, host_ip, host_ip6 = f"{NET4}.1", f"{NET6}:1", f"{NET4}.2", f"{NET6}:2"
    world, world6 = WORLD4, WORLD6

    def __init__(self, dhcp: DhcpConfig | None = DhcpConfig()) -> None:  # noqa: B008 - frozen
        self.dhcp_config = dhcp
        self.machines: list[Machine] = []
        self.nodes: list[Node] = []

    def __enter__(self) -> Lan:
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        Lan.live.append(self)
        return self

    def _build(self) -> None:
        self.switch = self._start(Machine("switch", root=False))
        forward = {"net/ipv4/ip_forward": "1", "net/ipv6/conf/all/forwarding": "1"}
        self.gateway = self._start(Machine("gateway", sysctls=forward))
        self.host = self._start(Machine("host"))
        for machine in self.machines:
            machine.wait()
        self.wire("link add lan type bridge mcast_snooping 0 forward_delay 0 stp_state 0", "link set lan up")
        self._plug(self.gateway)
        self._address(self.gateway, 1, gateway=False)
        self.gateway.ip(f"addr add {WORLD4}/32 dev lo", f"addr add {WORLD6}/128 dev lo")
        if self.dhcp_config is not None:
            self.dhcp = DhcpServer(self.gateway, self.dhcp_config)
            self.dhcp.start()
        self._plug(self.host)
        self._address(self.host, 2)

    def _start(self, machine: M) -> M:
        self.machines.append(machine)
        return machine

    def wire(self, *commands: str) -> None:
        # Only the switch's network is entered, not its processes: `netns PID` below means a PID as seen from here.
        Place("switch", ("nsenter", "-t", str(self.switch.pid), "--net", "--")).ip(*commands)

    def _plug(self, machine: Machine, mtu: int = 1500, mac: str = "") -> None:
        number = self.machines.index(machine)
        mac = mac or f"52:54:00:77:00:{number:02x}"
        port = f"port{number}"
        self.wire(
            f"link add {port} mtu {mtu} type veth peer name eth0 address {mac} mtu {mtu} netns {machine.pid}",
            f"link set {port} master lan up",
        )

    def _up(self, machine: Machine) -> None:
        """Set eth0 up, its link-local address in use at once as on a machine that has been up for long."""
        dad = "/proc/sys/net/ipv6/conf/eth0/accept_dad"
        machine.run(f"echo 0 >{dad}; ip link set lo up; ip link set eth0 up")
        if "1" not in machine.run("cat /proc/sys/net/ipv6/conf/eth0/disable_ipv6").stdout:
            eventually(lambda: machine.has_link_local("eth0"), 5.0)
        machine.run(f"echo 1 >{dad}")

    def _address(self, machine: Machine, number: int, *, gateway: bool = True, ipv6: bool = True) -> None:
        self._up(machine)
        commands = [f"addr add {NET4}.{number}/24 brd + dev eth0"]
        if gateway:
            commands.append(f"route add default via {NET4}.1 dev eth0")
        if ipv6:
            commands.append(f"addr add {NET6}:{number}/64 dev eth0 nodad")
            if gateway:
                commands.append(f"route add default via {NET6}:1 dev eth0")
        machine.ip(*commands)
        if ipv6:  # the kernel makes an address's own route in its own time
            own = f"ip -6 route show table local {NET6}:{number}"
            eventually(lambda: machine.run(own).stdout, 5.0, f"{NET6}:{number} is in use", 0.005)

    def node(
        self,
        name: str,
        config: str | None = None,
        *,
        ipv6: bool = True,
        static: bool = True,
        addresses: Sequence[str] = (),
        setup: Sequence[str] = (),
        mtu: int = 1500,
        mac: str = "",
    ) -> Node:
        """Add a node: .11, .12, ... in the order they are made, terwayd installed but not started.

        `config` is the text of /etc/terway.toml, by default the package's.  `addresses` are more of eth0's
        ("192.168.77.61/24"), `setup` more `ip` commands ("route add 10.9.0.0/16 via 192.168.77.1 table 100").
        `static=False` leaves eth0 plugged in, up and without an IPv4 address; `ipv6=False` switches IPv6 off.
        """
        number = 11 + len(self.nodes)
        off = (
            {} if ipv6 else {"net/ipv6/conf/all/disable_ipv6": "1", "net/ipv6/conf/default/disable_ipv6": "1"}
        )
        node = self._start(Node(name, sysctls=off))
        self.nodes.append(node)
        node.wait()
        node.install(config)
        self._plug(node, mtu, mac)
        if static:
            self._address(node, number, ipv6=ipv6)
        else:
            self._up(node)
        more = [f"addr add {address} dev eth0" for address in addresses]
        if more or setup:
            node.ip(*more, *setup)
        return node

    def machine(self, name: str, number: int = 0) -> Machine:
        """Add a machine that knows nothing of terwayd, with the static address .NUMBER, or 0 for none."""
        machine = self._start(Machine(name))
        machine.wait()
        self._plug(machine)
        if number:
            self._address(machine, number)
        else:
            self._up(machine)
        return machine

    def plug(self, machine: Machine) -> None:
        """Give a machine that has lost its NIC another, with the same MAC, as the kernel finds it: down."""
        self._plug(machine)

    def swap_nic(self, machine: Machine) -> None:
        """Take the machine's NIC out and put another in its place at once."""
        machine.ip("link del eth0")
        self._plug(machine)

    def unplug(self, machine: Machine) -> None:
        """Take the machine's cable out of the switch (its carrier goes)."""
        self.wire(f"link set port{self.machines.index(machine)} down")

    def replug(self, machine: Machine) -> None:
        """Put it in again."""
        self.wire(f"link set port{self.machines.index(machine)} up")

    def report(self) -> list[tuple[str, str]]:
        """What the daemons and the DHCP server logged, by title, for a report of a failure."""
        sections = [
            (f"terwayd on {node.name}", node.log()) for node in self.nodes if node.running and node.log()
        ]
        if self.dhcp_config is not None and hasattr(self, "dhcp") and self.gateway.running:
            sections.append(("dnsmasq on the gateway", self.dhcp.log()))
        return sections

    def close(self) -> None:
        """Remove the LAN with all its machines."""
        if self in Lan.live:
            Lan.live.remove(self)
        for machine in self.machines:
            machine.end()
        for machine in self.machines:
            machine.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        try:
            if isinstance(error, Exception):
                Lan.failures += self.report()
        except (OSError, LabError):
            pass  # the machines are gone already; what failed is what gets told
        finally:
            self.close()
