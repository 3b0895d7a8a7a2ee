"""What the methods of io.terway reply: pods, the host, plans and what was done as JSON values."""

from __future__ import annotations

import math
import time
from typing import Any

from terwayd.clock import boottime
from terwayd.dhcp.lease import Lease
from terwayd.host.plan import Plan
from terwayd.host.takeover import Standing
from terwayd.model import Host
from terwayd.pods.identity import Attachment
from terwayd.pods.static import is_static

# What io.terway.Status tells of an attachment and its lease; io.terway.Leases tells all.
POD_KEYS = [
    "namespace",
    "name",
    "network",
    "container_id",
    "ifname",
    "host_ifname",
    "mac",
    "address",
    "gateway",
    "server",
    "state",
    "renews_in",
    "expires_in",
]


def pod_dict(known: Attachment, lease: Lease | None, state: str) -> dict[str, Any]:
    """A pod's interface and its lease, as io.terway.Leases replies it."""
    now, wall = boottime(), time.time()
    return {
        "namespace": known.namespace,
        "name": known.name,
        "network": known.network,
        "container_id": known.container_id,
        "ifname": known.ifname,
        "host_ifname": known.host_ifname,
        "mac": known.mac,
        "address": str(lease.address) if lease else None,
        "gateway": str(lease.routers[0]) if lease and lease.routers else None,
        "server": str(lease.server) if lease and not is_static(lease) else None,
        "state": state,
        "renews_in": _left(lease.renew_at - now) if lease else None,
        "expires_in": _left(lease.expires_at - now) if lease else None,
        "client_id": known.client_id,
        "hostname": known.hostname,
        "dns": [str(server) for server in lease.dns] if lease else [],
        "domain": lease.domain if lease else "",
        "search": list(lease.search) if lease else [],
        "routes": [f"{dst} via {via}" if via else str(dst) for dst, via in lease.routes] if lease else [],
        "ntp": [str(server) for server in lease.ntp] if lease else [],
        "mtu": lease.mtu if lease else None,
        "options": {str(code): raw.hex() for code, raw in lease.extra} if lease else {},
        "acquired": wall - (now - lease.acquired) if lease else None,
    }


def _left(seconds: float) -> float | None:
    return None if math.isinf(seconds) else round(max(0.0, seconds), 1)


def host_dict(host: Host, bridge: str) -> dict[str, Any] | None:
    """The bridge as io.terway.Status replies it; None where there is none."""
    link = host.link(bridge)
    if link is None:
        return None
    uplinks = [
        port.name for port in host.links if port.master == link.index and port.alias.startswith("terwayd ")
    ]
    return {
        "bridge": bridge,
        "uplink": uplinks[0] if uplinks else "",
        "mac": link.mac,
        "mtu": link.mtu,
        "addresses": [str(a.interface) for a in host.addresses_of(bridge) if not a.link_local],
        "gateways": [str(gateway) for gateway in host.gateways_of(bridge)],
    }


def plan_dict(plan: Plan) -> dict[str, Any]:
    """A plan as io.terway.Plan replies it."""
    steps = [
        {"command": str(step), "undo": str(back) if (back := step.inverse()) else ""} for step in plan.steps
    ]
    return {
        "uplink": plan.uplink,
        "bridge": plan.bridge,
        "steps": steps,
        "warnings": list(plan.warnings),
        "changes": bool(steps),
    }


def standing_dict(standing: Standing) -> dict[str, Any]:
    """What was done, as io.terway.Setup and Teardown reply it."""
    return {
        "uplink": standing.uplink,
        "bridge": standing.bridge,
        "changed": standing.changed,
        "steps": standing.steps,
        "milliseconds": round(standing.milliseconds, 1),
    }
