"""The rules that kube-proxy writes for Services, in its own layout, for each of its two modes.

As `iptables-save` and `nft list ruleset` show them on a node with --cluster-cidr (pods are not masqueraded, but
for one that reaches itself): KUBE-SERVICES, KUBE-SVC-..., KUBE-SEP-..., KUBE-MARK-MASQ, KUBE-POSTROUTING,
KUBE-FORWARD; and the table `ip kube-proxy` with its maps and chains.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.lab import Node

SERVICE_CIDR = "10.96.0.0/12"


@dataclass(frozen=True, slots=True)
class Service:
    """A ClusterIP with one endpoint; both have TCP and UDP on `port`."""

    name: str
    cluster_ip: str
    endpoint: str
    port: int = 8080


def write(node: Node, mode: str, services: list[Service], cluster_cidr: str) -> None:
    """Have the rules for `services` on the node, and none of the other mode."""
    clean(node)
    if mode == "iptables":
        node.run(["iptables-restore", "--noflush"], input=_iptables(services, cluster_cidr))
    else:
        node.run(["nft", "-f", "-"], input=_nftables(services, cluster_cidr))


def clean(node: Node) -> None:
    """Take out what write() put in."""
    node.run(
        "nft delete table ip kube-proxy 2>/dev/null; iptables -t nat -F; iptables -t nat -X", check=False
    )
    node.run(
        "iptables -S | sed -n 's/^-A \\(.*-j KUBE-.*\\)/-D \\1/p' | xargs -rL1 iptables;"
        "for c in KUBE-FORWARD KUBE-SERVICES; do iptables -F $c; iptables -X $c; done",
        check=False,
    )


def _iptables(services: list[Service], cluster_cidr: str) -> str:
    chains, rules = [], []
    for service in services:
        for proto in ("tcp", "udp"):
            name = f"{service.name}{proto}".upper()
            svc, sep = f"KUBE-SVC-{name}", f"KUBE-SEP-{name}"
            chains += [f":{svc} - [0:0]", f":{sep} - [0:0]"]
            told = f'-m comment --comment "default/{service.name}:{proto}'
            to = f'-d {service.cluster_ip}/32 -p {proto} {told} cluster IP" -m {proto} --dport {service.port}'
            rules += [
                f"-A KUBE-SERVICES {to} -j {svc}",
                f"-A {svc} ! -s {cluster_cidr} {to} -j KUBE-MARK-MASQ",
                f'-A {svc} {told} -> {service.endpoint}:{service.port}" -j {sep}',
                f'-A {sep} -s {service.endpoint}/32 {told}" -j KUBE-MARK-MASQ',
                f'-A {sep} -p {proto} {told}" -m {proto} -j DNAT --to-destination {service.endpoint}:{service.port}',
            ]
    text = """*filter
:KUBE-FORWARD - [0:0]
:KUBE-SERVICES - [0:0]
-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m comment --comment "kubernetes forwarding rules" -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
*nat
:KUBE-SERVICES - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
"""
    tail = """-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
-A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully
"""
    nodeports = (
        '-A KUBE-SERVICES -m comment --comment "last" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\n'
    )
    return text + "\n".join(chains) + "\n" + tail + "\n".join(rules) + "\n" + nodeports + "COMMIT\n"


def _nftables(services: list[Service], cluster_cidr: str) -> str:
    chains, elements = [], []
    for service in services:
        for proto in ("tcp", "udp"):
            name = f"{service.name}-default/{service.name}/{proto}/{proto}"
            endpoint = f"endpoint-{name}__{service.endpoint}/{service.port}"
            elements.append(f"{service.cluster_ip} . {proto} . {service.port} : goto service-{name}")
            chains += [
                f"chain {endpoint} {{\n ip saddr {service.endpoint} jump mark-for-masquerade\n"
                f" meta l4proto {proto} dnat to {service.endpoint}:{service.port}\n}}",
                f"chain service-{name} {{\n ip daddr {service.cluster_ip} {proto} dport {service.port}"
                f" ip saddr != {cluster_cidr} jump mark-for-masquerade\n"
                f" numgen random mod 1 vmap {{ 0 : goto {endpoint} }}\n}}",
            ]
    text = """table ip kube-proxy {
    comment "rules for kube-proxy"
    set cluster-ips { type ipv4_addr; elements = { CLUSTER_IPS } }
    map no-endpoint-services { type ipv4_addr . inet_proto . inet_service : verdict; }
    map service-ips { type ipv4_addr . inet_proto . inet_service : verdict; elements = { SERVICE_IPS } }
    chain filter-input { type filter hook input priority -110; ct state new jump service-endpoints-check; }
    chain filter-forward {
        type filter hook forward priority -110
        ct state new jump service-endpoints-check
        ct state new jump cluster-ips-check
    }
    chain filter-output { type filter hook output priority -110; ct state new jump service-endpoints-check; }
    chain filter-output-post-dnat { type filter hook output priority -90; ct state new jump cluster-ips-check; }
    chain nat-prerouting { type nat hook prerouting priority dstnat; jump services; }
    chain nat-output { type nat hook output priority -100; jump services; }
    chain nat-postrouting { type nat hook postrouting priority srcnat; jump masquerading; }
    chain services { ip daddr . meta l4proto . th dport vmap @service-ips; }
    chain service-endpoints-check { ip daddr . meta l4proto . th dport vmap @no-endpoint-services; }
    chain cluster-ips-check { ip daddr @cluster-ips reject; }
    chain mark-for-masquerade { meta mark set meta mark or 0x4000; }
    chain masquerading {
        meta mark & 0x4000 == 0 return
        meta mark set meta mark xor 0x4000
        masquerade fully-random
    }
CHAINS
}
"""
    clusters = ", ".join(sorted({service.cluster_ip for service in services}))
    return (
        text.replace("CLUSTER_IPS", clusters)
        .replace("SERVICE_IPS", ", ".join(elements))
        .replace("CHAINS", "\n".join(chains))
    )
