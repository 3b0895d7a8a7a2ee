"""What the doctor knows of a host before it judges: one value, gathered by `gather` and `live`.

A fact that could not be had is None, and the checks that need it say so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from terwayd.config import Config
from terwayd.dhcp.survey import Offer
from terwayd.doctor.firewall import Dropping
from terwayd.model import Host, IPAddress, Link


@dataclass(frozen=True, slots=True)
class Told:
    """What the daemon finds wrong itself."""

    code: str
    error: bool
    message: str
    hint: str


@dataclass(frozen=True, slots=True)
class Process:
    """A process in this network namespace, with the systemd unit it belongs to, "" for none.

    `main` is whether the unit is there for it: a DHCP client that ifupdown started belongs to networking.service.
    """

    pid: int
    name: str
    unit: str = ""
    main: bool = False


@dataclass(frozen=True, slots=True)
class Shim:
    """The CNI plugin in a runtime's directory: `trouble` says what is wrong with it, "" for nothing."""

    directory: str
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Runtime:
    """Where a container runtime looks for plugins and networks, by its own configuration `file`."""

    name: str
    file: str
    bin_dirs: tuple[str, ...]
    conf_dir: str


@dataclass(frozen=True, slots=True)
class Clock:
    """The wall clock; `synchronised` is None where the kernel does not say.

    `seen` is the latest time that this host wrote down before, by the file `witness`.  `service` tells whether
    something of this host asks a time server: "on", "off", "none" where nothing is installed, "" unknown.
    """

    now: float
    synchronised: bool | None
    seen: float
    witness: str
    service: str = ""


@dataclass(frozen=True, slots=True)
class Lacking:
    """A module that the kernel `release` needs and lacks.

    `forbidden` are the files that forbid it, `missing` is the directory that should have it, "" where it does,
    `elsewhere` whether the modules of another kernel on this host have it.
    """

    module: str
    forbidden: tuple[str, ...] = ()
    missing: str = ""
    elsewhere: bool = False
    release: str = ""


@dataclass(frozen=True, slots=True)
class Gateway:
    """How a gateway answers: by ARP, by ARP to a MAC address that is not the host's; `mtu` is the size of
    the largest packet it answers, None where it answers no ping."""

    address: IPAddress
    answers: bool
    answers_foreign: bool
    mtu: int | None


@dataclass(frozen=True, slots=True)
class Live:
    """What the LAN answered; each Offer to `own` came for the host's MAC, to `foreign` for another one.

    `broadcast`: the other one again, asking for an answer by broadcast.  `claimed`: addresses of this
    host and its pods that somebody on the LAN has too, with the MAC address that says so.
    """

    own: tuple[Offer, ...]
    foreign: tuple[Offer, ...]
    broadcast: tuple[Offer, ...]
    foreign_mac: str
    gateways: tuple[Gateway, ...]
    claimed: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Facts:
    """The host.  `uplink` is None where none was found, `refused` why (message and hint).

    `told` is None without a daemon.  `pods` maps the host's ends of the pods' interfaces to the pods'
    names, None where nobody knows.  `filtered` are the iptables ("iptables", "ip6tables") that bridged frames
    pass, None without br_netfilter; `dropping` the chains there that drop them, `unread` a command that could
    not list its own.  `sysfs` holds files below /sys/class/net by their path from there.
    """

    config: Config
    host: Host
    uplink: Link | None
    refused: tuple[str, str] | None = None
    told: tuple[Told, ...] | None = None
    pods: Mapping[str, str] | None = None
    lacking: tuple[Lacking, ...] = ()
    filtered: tuple[str, ...] | None = None
    dropping: tuple[Dropping, ...] = ()
    unread: str = ""
    sysfs: Mapping[str, str] = field(default_factory=dict)
    dhcp_clients: tuple[Process, ...] = ()
    managing: tuple[str, ...] = ()
    cni_dhcp: tuple[Process, ...] = ()
    networks: tuple[str, ...] | None = None
    shims: tuple[Shim, ...] = ()
    runtimes: tuple[Runtime, ...] = ()
    clock: Clock | None = None
    live: Live | None = None

    @property
    def bridge(self) -> Link | None:
        """The bridge with the uplink in it; None before a takeover."""
        link = self.host.link(self.config.host.bridge)
        return (
            link
            if link is not None and self.uplink is not None and self.uplink.master == link.index
            else None
        )
