"""The LAN's DHCP server: Debian's dnsmasq on the gateway, with its own lease file and log."""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from typing import Any

from tests.lab.errors import LabError, eventually
from tests.lab.machine import Machine, Process

LEASES = "/var/lib/misc/dnsmasq.leases"
LOG = "/var/log/dnsmasq.log"
MESSAGE = re.compile(
    r"(?P<xid>\d+) (?P<kind>DHCP[A-Z]+)\(\S+?\)(?: (?P<address>\d+\.\d+\.\d+\.\d+))?(?: (?P<mac>[0-9a-f:]{17}))?(?P<rest>.*)"
)


@dataclass(frozen=True, slots=True)
class DhcpConfig:
    """How the server is set up.  `lease` as dnsmasq writes times, at least 2m; None for `router` sends no option 3.

    `ping` makes the server ping an address before it offers it, which costs a new client 3 seconds.
    `ra` also announces the IPv6 prefix.  `extra` are more options of dnsmasq, as on its command line.
    """

    first: str = "192.168.77.100"
    last: str = "192.168.77.200"
    mask: str = "255.255.255.0"
    lease: str = "2m"
    router: str | None = "192.168.77.1"
    dns: str | None = "192.168.77.1"
    domain: str | None = "lab.example"
    ping: bool = False
    ra: bool = False
    extra: tuple[str, ...] = ()

    def arguments(self) -> list[str]:
        """dnsmasq's command line."""
        words = [
            "dnsmasq",
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--port=0",
            "--user=root",
            "--group=root",
        ]
        words += [
            "--interface=eth0",
            "--bind-interfaces",
            "--dhcp-authoritative",
            "--log-dhcp",
            "--log-facility=-",
        ]
        words += [f"--dhcp-leasefile={LEASES}", "--pid-file="]
        words += [f"--dhcp-range={self.first},{self.last},{self.mask},{self.lease}"]
        words += [f"--dhcp-option=3,{self.router}" if self.router else "--dhcp-option=3"]
        words += [f"--dhcp-option=6,{self.dns}"] if self.dns else []
        words += [f"--domain={self.domain}"] if self.domain else []
        words += [] if self.ping else ["--no-ping"]
        words += ["--enable-ra", "--dhcp-range=fd77::,ra-only,64", "--ra-param=eth0,5"] if self.ra else []
        return [*words, *self.extra]


@dataclass(frozen=True, slots=True)
class Lease:
    """A line of dnsmasq's lease file; `expires` in Unix seconds, 0 for never; "" where nothing was sent."""

    address: IPv4Address
    mac: str
    hostname: str
    client_id: str
    expires: int


@dataclass(frozen=True, slots=True)
class Message:
    """A DHCP message as the server logged it: kind such as DHCPRELEASE, whom and what it was about."""

    kind: str
    mac: str
    address: IPv4Address | None
    xid: int
    rest: str


class DhcpServer:
    """A dnsmasq that can be stopped, started again with its leases, and started anew with another set-up."""

    def __init__(self, machine: Machine, config: DhcpConfig) -> None:
        self.machine = machine
        self.config = config
        self._process: Process | None = None

    def start(self, **changes: Any) -> None:
        """Start, with some fields of the configuration changed, and wait until it serves."""
        if self._process is not None:
            raise LabError("the DHCP server runs already")
        self.config = replace(self.config, **changes)
        seen = len(self.log())
        self.machine.path(LEASES).parent.mkdir(parents=True, exist_ok=True)
        process = self._process = self.machine.spawn(self.config.arguments(), LOG)

        eventually(
            lambda: "sockets bound" in self.log()[seen:] or not process.running, 5.0, "dnsmasq is up", 0.005
        )
        if not process.running:
            self._process = None
            raise LabError(f"dnsmasq ended with {process.returncode}: {self.log()[seen:]}")

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Stop it by this signal; its lease file stays."""
        if self._process is not None:
            self._process.signal(number)
            self._process.wait()
            self._process = None

    def restart(self, **changes: Any) -> None:
        """Stop and start, with some fields of the configuration changed."""
        self.stop()
        self.start(**changes)

    def forget(self) -> None:
        """Restart with an empty lease file, as a server that lost its memory."""
        self.stop()
        self.machine.path(LEASES).unlink(missing_ok=True)
        self.start()

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.running

    def leases(self) -> list[Lease]:
        """The IPv4 leases that the server has given and not seen ended."""
        file = self.machine.path(LEASES)
        found = []
        for line in file.read_text().splitlines() if file.exists() else []:
            words = line.split()
            if len(words) == 5 and words[2].count(".") == 3:
                expires, mac, address, name, client = (word if word != "*" else "" for word in words)
                found.append(
                    Lease(IPv4Address(address), mac, name, client.replace(":", ""), int(expires or 0))
                )
        return found

    def lease_of(self, address: object) -> Lease | None:
        """The lease of an address, or None."""
        return next((lease for lease in self.leases() if str(lease.address) == str(address)), None)

    def log(self) -> str:
        """All that the server has logged, options of every message included."""
        file = self.machine.path(LOG)
        return file.read_text(errors="replace") if file.exists() else ""

    def messages(self, kind: str = "", mac: str = "") -> list[Message]:
        """The DHCP messages the server has logged, oldest first; of one kind or one MAC if given."""
        found = []
        for match in MESSAGE.finditer(self.log()):
            address = IPv4Address(match["address"]) if match["address"] else None
            found.append(
                Message(match["kind"], match["mac"] or "", address, int(match["xid"]), match["rest"].strip())
            )
        return [message for message in found if kind in ("", message.kind) and mac in ("", message.mac)]
