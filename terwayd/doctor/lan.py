"""What the doctor concludes from what the LAN answered."""

from __future__ import annotations

from typing import Final

from terwayd.doctor.checks import Check, Verdict, error, unknown, warning, well
from terwayd.doctor.facts import Facts, Live

_ASK = "the LAN was not asked"
_FORGED: Final = (
    "on ESXi set both Promiscuous mode and Forged transmits of the port group to Accept (or use MAC learning on "
    "a distributed switch); on Hyper-V MAC address spoofing; on a switch raise the MAC limit of the port's "
    "port security"
)
_PROMISCUOUS: Final = (
    "on ESXi set Promiscuous mode of the port group to Accept (or use MAC learning on a distributed switch): "
    "what is sent to a pod's MAC address does not arrive"
)


def _servers(facts: Facts) -> Verdict:
    live = facts.live
    if live is None:
        return unknown(_ASK)
    servers = {offer.server: offer for offer in (*live.own, *live.foreign, *live.broadcast)}
    if not servers:
        return error(
            "no DHCP server answered a DISCOVER",
            "see whether it runs and serves this network: tcpdump -nei any 'port 67 or port 68'",
        )
    shown = ", ".join(
        f"{server} ({offer.server_mac}, {offer.after * 1000:.0f} ms)"
        for server, offer in sorted(servers.items())
    )
    believed = facts.config.dhcp.servers
    if believed is not None:
        heard = [server for server in servers if server in believed]
        if not heard:
            return error(
                f"none of dhcp.servers answered, but {shown}", f"mend dhcp.servers in {facts.config.path}"
            )
        return well(f"{', '.join(map(str, heard))} answers, of dhcp.servers; in all: {shown}")
    if len(servers) > 1:
        first = min(servers)
        return warning(
            f"{len(servers)} DHCP servers answer: {shown}",
            f'switch the wrong one off, or believe one alone: [dhcp] servers = ["{first}"] in '
            f"{facts.config.path}; systemctl restart terwayd",
        )
    return well(f"one server answers: {shown}")


def _foreign(facts: Facts) -> Verdict:
    live = facts.live
    if live is None:
        return unknown(_ASK)
    if live.foreign and any(gateway.answers for gateway in live.gateways) and not _pass(live):
        return warning(
            f"an OFFER to {live.foreign_mac} comes, but no answer of the gateway to ARP from it: some servers "
            "answer by broadcast, and the switch or hypervisor may deliver nothing else",
            _PROMISCUOUS,
        )
    if live.foreign:
        return well(f"a DISCOVER from {live.foreign_mac}, which is not the NIC's, got an OFFER")
    if _pass(live):
        return error(
            f"a DISCOVER from {live.foreign_mac} got no OFFER, though ARP from it is answered",
            "the DHCP server's range is full, or it serves known MAC addresses alone: look into its log",
        )
    if live.broadcast:
        return error(
            f"an OFFER to {live.foreign_mac} comes by broadcast only: the switch or hypervisor delivers no frames to "
            "MAC addresses other than the NIC's",
            _PROMISCUOUS,
        )
    if live.own or any(gateway.answers for gateway in live.gateways):
        return error(
            f"a DISCOVER from {live.foreign_mac} got no OFFER, while the NIC's own MAC address is answered: "
            "the switch or hypervisor drops frames of other MAC addresses (port security)",
            _FORGED,
        )
    return unknown("nobody answers the NIC's own MAC address either")


def _pass(live: Live) -> bool:
    """Whether frames of another MAC go out and answers to it come in, DHCP aside."""
    return any(gateway.answers_foreign for gateway in live.gateways)


def _gateway(facts: Facts) -> Verdict:
    if facts.live is None:
        return unknown(_ASK)
    gateways = facts.live.gateways
    silent = [str(gateway.address) for gateway in gateways if not gateway.answers]
    if not gateways:
        return unknown("this host has no gateway")
    if silent:
        return error(f"the gateway {', '.join(silent)} does not answer ARP", "ip neigh; ip route")
    return well(f"{', '.join(str(gateway.address) for gateway in gateways)} answers")


def _duplicates(facts: Facts) -> Verdict:
    if facts.live is None:
        return unknown(_ASK)
    if claimed := facts.live.claimed:
        shown = ", ".join(f"{address} ({mac})" for address, mac in sorted(claimed.items()))
        return error(
            f"another station has the address of this host or of a pod: {shown}",
            "find that MAC address on the switch, and give one of the two another address",
        )
    return well("no address of this host or its pods is used twice")


def _path_mtu(facts: Facts) -> Verdict:
    if facts.live is None:
        return unknown(_ASK)
    link = facts.bridge or facts.uplink
    measured = [gateway for gateway in facts.live.gateways if gateway.mtu is not None]
    if link is None or not measured:
        return unknown("no gateway answers ping")
    for gateway in measured:
        if gateway.mtu is not None and gateway.mtu < link.mtu:
            return error(
                f"{link.name} sends packets of {link.mtu} bytes, and {gateway.address} answers none "
                f"larger than {gateway.mtu}",
                f"raise the MTU of the switch or hypervisor to {link.mtu}, or lower the NIC's to {gateway.mtu}",
            )
    return well(f"{measured[0].address} answers packets of {link.mtu} bytes")


LAN_CHECKS: Final = (
    Check("dhcp-servers", "dhcp", _servers),
    Check("foreign-mac", "dhcp", _foreign),
    Check("gateway", "lan", _gateway),
    Check("duplicate-address", "lan", _duplicates),
    Check("path-mtu", "lan", _path_mtu),
)
