"""An attachment as the runtime's own cache has it (libcni's), for when the row of a pod is lost.

What the cache does not say is who leased the address and until when: so the lease is one that is due, and
any server may extend it (RFC 2131 section 3.2).  Pure.
"""

from __future__ import annotations

import base64
import json
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Any, Final

from terwayd.dhcp.lease import UNKNOWN_SERVER, Lease
from terwayd.pods.identity import Attachment, Policy, Wish, attachment
from terwayd.pods.static import static_lease

DIRECTORY: Final = "/var/lib/cni/results"
TRUSTED_S: Final = 600.0  # how long an address is trusted whose lease nobody confirms


def from_cache(text: str, policy: Policy, now: float) -> tuple[Attachment, Lease]:
    """The attachment in one file of the cache, and a lease to ask for; ValueError when there is none."""
    try:
        cached = json.loads(text)
        ifname, result = cached["ifName"], cached["result"]
        args = {str(key): str(value) for key, value in cached.get("cniArgs") or []}
        index, inside = next(
            (n, one)
            for n, one in enumerate(result["interfaces"])
            if one["name"] == ifname and one.get("sandbox")
        )
        address = next(
            IPv4Interface(ip["address"])
            for ip in result["ips"]
            if ip.get("interface", index) == index and "." in ip["address"]
        )
        known = attachment(
            policy,
            (str(cached["networkName"]), str(cached["containerId"]), str(ifname)),
            Wish(
                namespace=args.get("K8S_POD_NAMESPACE", ""),
                name=args.get("K8S_POD_NAME", ""),
                mac=str(inside["mac"]),
            ),
            netns=str(inside["sandbox"]),
        )
        if _is_static(cached):
            return known, static_lease(address, now)
        return known, _lease(address, result.get("routes") or [], now)
    except (KeyError, TypeError, AttributeError, StopIteration, RecursionError) as error:
        raise ValueError(f"not an attachment: {error!r}") from None


def _is_static(cached: dict[str, Any]) -> bool:
    """Whether the network's configuration, which the cache has in base64, says that its addresses are static."""
    config = json.loads(base64.b64decode(cached.get("config") or b"e30="))
    return any(plugin.get("static") is True for plugin in config.get("plugins", [config]))


def _lease(address: IPv4Interface, routes: list[dict[str, Any]], now: float) -> Lease:
    return Lease(
        address,
        UNKNOWN_SERVER,
        acquired=now,
        renew_at=now,
        rebind_at=now,
        expires_at=now + TRUSTED_S,
        routes=tuple(
            (IPv4Network(route["dst"]), IPv4Address(route["gw"]) if route.get("gw") else None)
            for route in routes
            if "." in route["dst"]
        ),
    )
