"""The lease that the host's own DHCP client holds: who the client is to the server, and what it got.

Pure: parsers of what each client leaves on the disk.  Only what the kernel does not know is read here:
the client identifier above all, since a server that is told another one sees another client and gives
another address.  How long the lease still runs is the lifetime of the address.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address

_DUID_TYPE = 255  # RFC 4361 section 6.1: type 255, IAID of four bytes, DUID


@dataclass(frozen=True, slots=True)
class Leased:
    """Who leased the host's address: `client_id` is option 61 in hex with its type byte, "" for none sent.

    `server` and `router` are None where they are not known.
    """

    address: IPv4Address
    client_id: str = ""
    server: IPv4Address | None = None
    router: IPv4Address | None = None


def settings(text: str) -> dict[str, str]:
    """KEY=VALUE lines, as systemd-networkd's and NetworkManager's state files have them."""
    pairs = (line.partition("=") for line in text.splitlines() if not line.startswith(("#", "[")))
    return {key.strip(): value.strip() for key, equals, value in pairs if equals}


def of_networkd(text: str) -> Leased | None:
    """/run/systemd/netif/leases/INDEX, which names the client identifier as it is sent."""
    known = settings(text)
    address = _address(known.get("ADDRESS"))
    if address is None:
        return None
    routers = known.get("ROUTER", "").split()
    return Leased(
        address,
        _hex(known.get("CLIENTID", "")),
        _address(known.get("SERVER_ADDRESS")),
        _address(routers[0] if routers else None),
    )


def of_network_manager(text: str) -> Leased | None:
    """/run/NetworkManager/devices/INDEX of a device whose connection uses DHCP."""
    known = settings(text)
    address = _address(known.get("dhcp4.ip_address"))
    if address is None:
        return None
    routers = known.get("dhcp4.routers", "").split()
    return Leased(
        address,
        _hex(known.get("dhcp4.dhcp_client_identifier", "")),
        _address(known.get("dhcp4.dhcp_server_identifier")),
        _address(routers[0] if routers else None),
    )


def of_dhclient(text: str, mac: str, command: Sequence[str], conf: str = "") -> Leased | None:
    """The last lease of a dhclient.leases(5) file, of a client with this command line and dhclient.conf.

    With -i, as ifupdown starts it, the client identifier is made of the MAC's last four bytes and the DUID.
    """
    blocks = re.findall(r"^lease \{(.*?)^\}", text, re.DOTALL | re.MULTILINE)
    if not blocks:
        return None
    known = dict(re.findall(r"^\s*(?:option )?([a-z0-9-]+) (.*?);", blocks[-1], re.MULTILINE))
    address = _address(known.get("fixed-address"))
    if address is None:
        return None
    duids = re.findall(r'^default-duid "(.*)";$', text, re.MULTILINE)
    sent = re.search(r"^\s*send dhcp-client-identifier (.*?);", conf, re.MULTILINE)
    client_id = ""
    if sent is not None:
        client_id = _sent(sent[1], mac)
    elif duids and "-i" in command:
        client_id = identifier(mac, _unquoted(duids[-1]))
    routers = known.get("routers", "").split(",")
    return Leased(address, client_id, _address(known.get("dhcp-server-identifier")), _address(routers[0]))


def of_dhcpcd(text: str, mac: str, duid: str, conf: str = "") -> Leased | None:
    """What `dhcpcd -U` prints, with the client's file duid and its dhcpcd.conf(5)."""
    known = settings(text)
    address = _address(known.get("ip_address"))
    if address is None:
        return None
    words = [line.split() for line in conf.splitlines()]
    by_mac = any(line[:1] == ["clientid"] for line in words)
    client_id = "01" + mac.replace(":", "") if by_mac or not duid.strip() else identifier(mac, _bytes(duid))
    routers = known.get("routers", "").split()
    return Leased(
        address,
        client_id,
        _address(known.get("dhcp_server_identifier")),
        _address(routers[0] if routers else None),
    )


def identifier(mac: str, duid: bytes) -> str:
    """The client identifier of RFC 4361 with the IAID that ISC's client and dhcpcd make of a MAC."""
    return (bytes((_DUID_TYPE,)) + bytes.fromhex(mac.replace(":", ""))[-4:] + duid).hex()


def _sent(value: str, mac: str) -> str:
    """The value of `send dhcp-client-identifier` in dhclient.conf(5), as it goes over the wire."""
    value = value.strip().removeprefix("=").strip()
    if value == "hardware":
        return "01" + mac.replace(":", "")
    if value.startswith('"'):
        return _unquoted(value.strip('"')).hex()
    return _hex(value)


def _unquoted(text: str) -> bytes:
    """ISC's quoted binary: printable bytes as they are, others as \\ and three octal digits."""
    found = re.findall(r"\\([0-7]{3})|\\(.)|(.)", text, re.DOTALL)
    return bytes(int(octal, 8) if octal else ord(escaped or plain) & 0xFF for octal, escaped, plain in found)


def _bytes(text: str) -> bytes:
    """Bytes in hex, with colons."""
    return bytes.fromhex(_hex(text))


def _hex(text: str) -> str:
    """Bytes as hex digits, given as "01:52:54:0:77:1:33" or "ff7356d3a8"; "" when they are neither."""
    parts = text.strip().split(":")
    joined = "".join(part.rjust(2, "0") for part in parts) if len(parts) > 1 else parts[0]
    try:
        return bytes.fromhex(joined).hex()
    except ValueError:
        return ""


def _address(text: str | None) -> IPv4Address | None:
    try:
        return IPv4Address((text or "").strip())
    except ValueError:
        return None
