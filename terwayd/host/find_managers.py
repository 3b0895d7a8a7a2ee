"""Looking for who manages the NIC: state files below /run and /var/lib, and DHCP clients in /proc."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from terwayd.host import lease
from terwayd.host.asking import output, read
from terwayd.host.lease import Leased, settings
from terwayd.host.managers import Client, Found
from terwayd.model import Link

_CLIENTS = {"dhclient": "dhclient", "dhcpcd": "dhcpcd"}
_NETWORK = ("/etc/systemd/network", "/run/systemd/network", "/usr/lib/systemd/network")
_RESOLVED = Path("/run/systemd/resolve/io.systemd.Resolve")


def find(nic: Link) -> Found:
    """What is known of the managers of `nic`; nothing found is an empty Found."""
    link = settings(read(f"/run/systemd/netif/links/{nic.index}"))
    networkd = _pid("systemd-networkd")
    configures = networkd != 0 and link.get("ADMIN_STATE") in {"configured", "configuring", "pending"}
    note = f"/run/NetworkManager/devices/{nic.index}"
    device = read(note)
    nm = _pid("NetworkManager") != 0
    nm_configures = nm and settings(device).get("managed") == "true"
    clients = tuple(_clients(nic.name))
    leased: Leased | None = None
    if configures:
        leased = lease.of_networkd(read(f"/run/systemd/netif/leases/{nic.index}"))
    if nm_configures and leased is None:
        leased = lease.of_network_manager(device)
    if clients and leased is None:
        leased = _of(clients[0], nic)
    waits = configures and link["ADMIN_STATE"] != "configured" and _pid("systemd-networkd-wait-online") != 0
    return Found(
        networkd=networkd != 0,
        networkd_stale=configures and _stale(link.get("NETWORK_FILE", ""), networkd),
        nm=nm,
        userspace_ra=configures or nm_configures,
        ifupdown=read(f"/run/network/ifstate.{nic.name}").strip().startswith(nic.name),
        clients=clients,
        lease=leased,
        dns=_resolved("dns", nic.name),
        domains=_resolved("domain", nic.name),
        systemd=Path("/run/systemd/system").is_dir(),
        resolved=_RESOLVED.exists(),
        nm_note=(note, device) if nm_configures else ("", ""),
        # It waits for a NIC to become configured, and would wait in vain for one that was taken away.
        busy="systemd-networkd" if waits else "",
    )


def client_pids(name: str, dev: str) -> list[int]:
    """The processes of the DHCP client `name` on `dev`, in our network namespace, its helpers included."""
    found = {pid: words for pid, words in processes() if _is_client(name, words)}
    pids = [pid for pid, words in found.items() if dev in words]
    return [*pids, *[pid for pid in found if pid not in pids and _parent(pid) in pids]]


def _clients(dev: str) -> Iterator[Client]:
    for _, words in processes():
        name = next((name for name in _CLIENTS if _is_client(name, words)), "")
        if name and dev in words and "-6" not in words:
            # dhcpcd writes what it does over its command line.
            command = words if name == "dhclient" else ("dhcpcd", dev)
            yield Client(name, tuple(command))
            return


def _is_client(name: str, words: list[str]) -> bool:
    return words[0].rstrip(":").rpartition("/")[2] == name and "-x" not in words


def processes() -> Iterator[tuple[int, list[str]]]:
    """The processes in our network namespace with their words.

    /proc/PID/ns/net of a process with more capabilities than ours cannot be read, but the files below
    /proc/PID/net can, and each network namespace has its own.
    """
    ours = Path("/proc/self/net/dev").stat().st_ino
    for directory in Path("/proc").iterdir():
        if not directory.name.isdigit():
            continue
        try:
            line = (directory / "cmdline").read_bytes().rstrip(b"\0").decode(errors="replace")
            if line and (directory / "net/dev").stat().st_ino == ours:
                yield int(directory.name), line.replace("\0", " ").split()
        except OSError:
            continue  # it has ended


def _parent(pid: int) -> int:
    lines = read(f"/proc/{pid}/status").splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith("PPid:")), 0)


def _pid(name: str) -> int:
    """The process of that program, 0 where there is none."""
    return next((pid for pid, words in processes() if words[0].rpartition("/")[2] == name), 0)


def _stale(file: str, pid: int) -> bool:
    """Whether the .network file, or what is dropped in to it, has changed since systemd-networkd started.

    netplan's generator writes it anew, with the same words, whenever systemd reads its units again.
    """
    words = read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    if not words:
        return True  # it has just ended
    booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    started = booted + int(words[19]) / os.sysconf("SC_CLK_TCK")  # proc(5): starttime
    added = [Path(place, Path(file).name + ".d") for place in _NETWORK]
    added += [path for directory in added if directory.is_dir() for path in directory.iterdir()]
    return any(path.stat().st_ctime > started for path in (Path(file), *added) if path.exists())


def _of(client: Client, nic: Link) -> Leased | None:
    if client.name == "dhcpcd":
        said = output("dhcpcd", "-4", "-U", nic.name)
        return lease.of_dhcpcd(said, nic.mac, read("/var/lib/dhcpcd/duid"), read("/etc/dhcpcd.conf"))
    words = list(client.command)
    file = words[words.index("-lf") + 1] if "-lf" in words[:-1] else "/var/lib/dhcp/dhclient.leases"
    return lease.of_dhclient(read(file), nic.mac, words, read("/etc/dhcp/dhclient.conf"))


def _resolved(what: str, dev: str) -> tuple[str, ...]:
    """What systemd-resolved has for `dev`, where it runs: `resolvectl` prints "Link 2 (eth0): 192.0.2.1"."""
    if not _RESOLVED.exists():
        return ()
    return tuple(output("resolvectl", "--no-pager", what, dev).partition("): ")[2].split())
