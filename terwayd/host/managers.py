"""Who manages the NIC, and what has to be done so that it leaves NIC, bridge and pods alone.

Pure: from facts (find_managers looks for them) to steps.  A DHCP client is ended first, in a way that
leaves everything as it is.  The interfaces that are to come are named to every manager that runs before
they are made: it would lease an address for a new one.  Of the NIC it is told after the addresses have
moved, since a manager that lets go of a NIC takes from it what it gave; on the way back last, when the
NIC has everything again.  All files lie below /run: after a reboot nothing of them is left.
"""

from __future__ import annotations

from dataclasses import dataclass

from terwayd.host import commands
from terwayd.host.lease import Leased
from terwayd.host.steps import Step

_PODS = "tw*"  # the host's ends of the pods' interfaces

NETWORKD_FILE = "/run/systemd/network/00-terwayd.network"
NETWORKD_NIC_FILE = "/run/systemd/network/00-terwayd-nic.network"
NM_FILE = "/run/NetworkManager/conf.d/90-terwayd.conf"
NM_NIC_FILE = "/run/NetworkManager/conf.d/90-terwayd-nic.conf"
IFUPDOWN_FILE = "/run/systemd/system/networking.service.d/terwayd.conf"
_NETWORKD_RELOAD = ("networkctl", "reload")
_NM_RELOAD = ("nmcli", "general", "reload", "conf")


@dataclass(frozen=True, slots=True)
class Client:
    """A DHCP client process on the NIC: "dhclient" or "dhcpcd", with its command line."""

    name: str
    command: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """What was found of managers.

    `networkd` and `nm` are whether they run: they may want the bridge and the pods' interfaces even where
    the NIC is not their own.  `nm_note` is the file in which NetworkManager keeps what it has configured of
    the NIC, with its text, empty where it has not.  `networkd_stale` is whether networkd's files of the NIC
    may have changed since it read them: told to read them, it configures the NIC anew, and for a moment the
    NIC has no address.  `ifupdown` is whether it has configured the NIC, `userspace_ra` whether the manager
    listens to IPv6 routers itself, `dns` and `domains` are what systemd-resolved has for the NIC.  `busy`
    says who has not finished with the NIC yet, "" when nobody.
    """

    networkd: bool = False
    networkd_stale: bool = False
    nm: bool = False
    ifupdown: bool = False
    userspace_ra: bool = False
    clients: tuple[Client, ...] = ()
    lease: Leased | None = None
    dns: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()
    systemd: bool = False
    nm_note: tuple[str, str] = ("", "")
    busy: str = ""
    resolved: bool = False

    @property
    def nm_configures(self) -> bool:
        """Whether the NIC is NetworkManager's own."""
        return self.nm and self.nm_note[0] != ""


@dataclass(frozen=True, slots=True)
class Held:
    """The steps that hold the managers: `early` before all others, `late` when the addresses have moved."""

    early: tuple[Step, ...] = ()
    late: tuple[Step, ...] = ()
    lease: Leased | None = None
    userspace_ra: bool = False


def hold(found: Found, nic: str, bridge: str, dns: tuple[str, ...] = ()) -> Held:
    """What keeps the managers that were found away from `nic`, `bridge` and the pods' interfaces.

    `dns` are name servers in place of the NIC's.
    """
    # A client would put back the addresses that it sees go, or take the name servers out of resolv.conf.
    early: list[Step] = [
        commands.StopClient(client.name, nic, back=_start(client, nic, found)) for client in found.clients
    ]
    late: list[Step] = []
    if found.networkd:
        early.append(commands.WriteFile(NETWORKD_FILE, _networkd(bridge, _PODS)))
        early += [] if found.networkd_stale else [commands.Run(_NETWORKD_RELOAD)]
        late += [commands.WriteFile(NETWORKD_NIC_FILE, _networkd(nic)), _again(_NETWORKD_RELOAD)]
    if found.nm:
        early += [commands.WriteFile(NM_FILE, _network_manager(bridge, _PODS)), commands.Run(_NM_RELOAD)]
        late += _restart(nic, found) if found.nm_configures else [_again(_NM_RELOAD)]
    if found.ifupdown and found.systemd:
        late += [commands.WriteFile(IFUPDOWN_FILE, _ifupdown(nic)), _systemctl("daemon-reload")]
    if dns and found.resolved:
        late.append(commands.Run(("resolvectl", "dns", bridge, *dns)))
    elif found.dns:
        # It does not always see that the NIC has its address again; what it knows outlives its restart.
        again = ("systemctl", "try-restart", "systemd-resolved")
        late.append(commands.Run(("resolvectl", "dns", bridge, *found.dns), back=again))
        if found.domains:
            late.append(commands.Run(("resolvectl", "domain", bridge, *found.domains)))
    return Held(tuple(early), tuple(late), found.lease, found.userspace_ra)


def _systemctl(*words: str) -> commands.Run:
    return _again(("systemctl", *words))


def _again(command: tuple[str, ...]) -> commands.Run:
    """What is the same on the way there and back."""
    return commands.Run(command, back=command)


def _restart(nic: str, found: Found) -> list[Step]:
    """A reload would take the NIC down as NetworkManager lets go of it.

    One that is started anew finds that it is not to touch the NIC, and later, by its own note, that it had
    configured it.  resolv.conf stays as it is: it would take the NIC's name servers out of it.
    """
    return [
        commands.WriteFile(NM_NIC_FILE, "[main]\ndns=none\n\n" + _network_manager(nic)),
        # systemd starts it five times in ten seconds, no more
        _systemctl("reset-failed", "NetworkManager"),
        _systemctl("stop", "NetworkManager"),
        commands.RemoveFile(*found.nm_note),
        _systemctl("start", "NetworkManager"),
    ]


def _networkd(*names: str) -> str:
    return f"[Match]\nName={' '.join(names)}\n\n[Link]\nUnmanaged=yes\n"


def _network_manager(*names: str) -> str:
    return f"[keyfile]\nunmanaged-devices+={';'.join(f'interface-name:{name}' for name in names)}\n"


def _ifupdown(nic: str) -> str:
    """`systemctl restart networking` does ifdown -a and ifup -a, which read this variable."""
    return f"[Service]\nEnvironment=EXCLUDE_INTERFACES={nic}\n"


def _start(client: Client, nic: str, found: Found) -> tuple[str, ...]:
    """The client as it was started; under systemd not as a child of ours, to outlive us."""
    if not found.systemd:
        return client.command
    unit = f"--unit=terwayd-{client.name}-{nic}"
    return ("systemd-run", "--quiet", "--collect", unit, "--property=Type=forking", *client.command)
