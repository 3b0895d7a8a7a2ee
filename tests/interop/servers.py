"""Four DHCP servers behind one face, each in a machine of the lab with a configuration of its own."""

from __future__ import annotations

import json
import shutil
import signal
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from tests.lab import Machine
from tests.lab.errors import LabError, eventually
from tests.lab.machine import Process


@dataclass(frozen=True, slots=True)
class Range:
    """What a server hands out, out of 192.168.77.0/24.  `by_mac` and `by_client_id`: reserved addresses.

    `t1` and `t2`, where they are not the usual parts of the lease, are for Kea; `rapid_commit` and
    `options`, as dnsmasq writes them, for dnsmasq.
    """

    first: str = "192.168.77.100"
    last: str = "192.168.77.200"
    seconds: int = 12
    router: str = "192.168.77.1"
    interface: str = "eth0"
    subnet: str = "192.168.77.0/24"
    by_mac: tuple[tuple[str, str], ...] = ()
    by_client_id: tuple[tuple[str, str], ...] = ()
    t1: int = 0
    t2: int = 0
    rapid_commit: bool = False
    options: tuple[str, ...] = ()


@dataclass
class Server:
    """A server in `machine`; its leases outlive stop() and start(), unless it is told to forget them."""

    machine: Machine
    range: Range = field(default_factory=Range)
    name: ClassVar[str] = ""
    program: ClassVar[str] = ""
    up: ClassVar[str] = ""
    leases: ClassVar[str] = ""
    config: ClassVar[str] = "/etc/lab-dhcp"
    _process: Process | None = None

    @property
    def log_file(self) -> str:
        return f"/var/log/{self.name}-{self.range.interface}.log"

    def log(self) -> str:
        file = self.machine.path(self.log_file)
        return file.read_text(errors="replace") if file.exists() else ""

    def start(self, **changes: Any) -> None:
        """Start, with some fields of the range changed, and wait until it serves."""
        assert self._process is None
        self.range = replace(self.range, **changes)
        self.machine.write(self.config, self.text())
        self.machine.path(self.leases).parent.mkdir(parents=True, exist_ok=True)
        self.machine.path("/run/kea").mkdir(parents=True, exist_ok=True)
        self.machine.path(self.leases).touch()
        seen = len(self.log())
        process = self._process = self.machine.spawn(self.command(), self.log_file, self.environment())
        eventually(lambda: self.up in self.log()[seen:] or not process.running, 8.0, f"{self.name} is up")
        if not process.running:
            raise LabError(f"{self.name} ended: {self.log()[seen:]}")
        # udhcpd says that it has started before it listens.
        eventually(lambda: ":67 " in self.machine.run("ss -Hlun").stdout, 8.0, f"{self.name} listens")

    def stop(self) -> None:
        if self._process is not None:
            self._process.signal(signal.SIGTERM)
            self._process.wait()
            self._process = None

    def forget(self) -> None:
        """Lose all leases; to be called while it is stopped."""
        self.machine.path(self.leases).unlink(missing_ok=True)

    def environment(self) -> dict[str, str]:
        return {}

    def text(self) -> str:
        raise NotImplementedError

    def command(self) -> list[str]:
        raise NotImplementedError


class Kea(Server):
    name, program, up = "kea", "kea-dhcp4", "DHCP4_STARTED"
    leases = "/var/lib/kea/leases.csv"

    def text(self) -> str:
        r = self.range
        reservations = [{"hw-address": mac, "ip-address": ip} for mac, ip in r.by_mac]
        reservations += [{"client-id": one, "ip-address": ip} for one, ip in r.by_client_id]
        subnet = {
            "id": 1,
            "subnet": r.subnet,
            "pools": [{"pool": f"{r.first} - {r.last}"}],
            "option-data": [{"name": "routers", "data": r.router}],
            "reservations": reservations,
        }
        config = {
            "interfaces-config": {"interfaces": [r.interface]},
            "lease-database": {"type": "memfile", "name": self.leases, "lfc-interval": 0},
            "valid-lifetime": r.seconds,
            **({"renew-timer": r.t1, "rebind-timer": r.t2} if r.t1 else {"calculate-tee-times": True}),
            "authoritative": True,
            "subnet4": [subnet],
            "loggers": [{"name": "kea-dhcp4", "output_options": [{"output": "stdout"}], "severity": "INFO"}],
        }
        return json.dumps({"Dhcp4": config})

    def command(self) -> list[str]:
        return ["kea-dhcp4", "-c", self.config]

    def environment(self) -> dict[str, str]:
        return {"KEA_PIDFILE_DIR": "/run/kea", "KEA_LOCKFILE_DIR": "none"}


class IscDhcpd(Server):
    name, program, up = "dhcpd", "dhcpd", "Server starting service."
    leases = "/var/lib/dhcp/dhcpd.leases"

    def text(self) -> str:
        r = self.range
        hosts = [
            f"host h{n} {{ hardware ethernet {mac}; fixed-address {ip}; }}"
            for n, (mac, ip) in enumerate(r.by_mac)
        ]
        hosts += [
            f"host c{n} {{ option dhcp-client-identifier {colons(one)}; fixed-address {ip}; }}"
            for n, (one, ip) in enumerate(r.by_client_id)
        ]
        times = f"default-lease-time {r.seconds}; max-lease-time {r.seconds}; min-lease-time 1;"
        subnet = f"range {r.first} {r.last}; option routers {r.router};"
        return "\n".join(
            [
                f"authoritative; ping-check false; {times}",
                f"subnet 192.168.77.0 netmask 255.255.255.0 {{ {subnet} }}",
                *hosts,
                "",
            ]
        )

    def command(self) -> list[str]:
        files = ["-cf", self.config, "-lf", self.leases, "-pf", "/run/lab-dhcpd.pid"]
        return ["dhcpd", "-4", "-f", "-d", "--no-pid", *files, self.range.interface]


class Udhcpd(Server):
    name, program, up = "udhcpd", "udhcpd", "started"
    leases = "/var/lib/misc/udhcpd.leases"

    def text(self) -> str:
        r = self.range
        lines = [f"start {r.first}", f"end {r.last}", f"interface {r.interface}", f"lease_file {self.leases}"]
        lines += [f"option lease {r.seconds}", "min_lease 1", "option subnet 255.255.255.0"]
        lines += [f"option router {r.router}", "auto_time 1"]
        lines += [f"static_lease {mac} {ip}" for mac, ip in r.by_mac]
        return "\n".join([*lines, ""])

    def command(self) -> list[str]:
        # Its pings of an address before it is offered would cost 2 s.
        return ["udhcpd", "-f", "-a", "1", self.config]


class Dnsmasq(Server):
    """Leases of less than two minutes it does not give: it is made to send early times for renewal instead."""

    name, program, up = "dnsmasq", "dnsmasq", "sockets bound"
    leases = "/var/lib/misc/lab-dnsmasq.leases"

    def text(self) -> str:
        r = self.range
        lines = ["port=0", "user=root", "group=root", f"interface={r.interface}", "bind-dynamic"]
        lines += ["dhcp-authoritative", "log-dhcp", "log-facility=-", "no-ping", "no-hosts", "pid-file="]
        lines += [f"dhcp-leasefile={self.leases}", f"dhcp-range={r.first},{r.last},255.255.255.0,120"]
        lines += [f"dhcp-option=3,{r.router}"]
        lines += [
            f"dhcp-option-force=58,{r.seconds // 2}i",
            f"dhcp-option-force=59,{r.seconds * 7 // 8}i",
        ]
        lines += ["dhcp-rapid-commit"] if r.rapid_commit else []
        lines += [f"dhcp-option={option}" for option in r.options]
        lines += [f"dhcp-host={mac},{ip}" for mac, ip in r.by_mac]
        lines += [f"dhcp-host=id:{colons(one)},{ip}" for one, ip in r.by_client_id]
        return "\n".join([*lines, ""])

    def command(self) -> list[str]:
        return ["dnsmasq", "--keep-in-foreground", f"--conf-file={self.config}"]


SERVERS: tuple[type[Server], ...] = (Kea, IscDhcpd, Udhcpd, Dnsmasq)


def installed(server: type[Server]) -> bool:
    return shutil.which(server.program, path="/usr/sbin:/usr/bin:/sbin:/bin") is not None


def colons(text: str) -> str:
    return bytes.fromhex(text).hex(":")
