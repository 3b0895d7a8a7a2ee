"""The Service ranges of the cluster: as configured, as this node's own kube-apiserver says, or as kubeadm noted.

Pure: text in, values out; `cluster` reads the files and asks the API server.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass
from ipaddress import ip_network

from terwayd.config import Network

APISERVER_MANIFEST = "/etc/kubernetes/manifests/kube-apiserver.yaml"
KUBELET_CONFIG = "/etc/kubernetes/kubelet.conf"
CONFIG_MAP = "/api/v1/namespaces/kube-system/configmaps/kubeadm-config"

_COMMENT = re.compile(r"^\s*#.*$", re.MULTILINE)
_RANGE = re.compile(r"--service-cluster-ip-range['\"]?(?:=|\s+)(?:-\s+)?['\"]?([0-9a-fA-F.:/,]+)")
_SUBNET = re.compile(r"^\s+serviceSubnet:\s*['\"]?([0-9a-fA-F.:/,]+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Access:
    """How kubelet reaches the API server: each of the three either a file's path or what would be in it."""

    server: str
    authority: str | bytes
    certificate: str | bytes
    key: str | bytes


def from_manifest(text: str) -> tuple[Network, ...]:
    """The ranges that the text of a kube-apiserver manifest names; () when it names none."""
    return _networks(_RANGE.search(_COMMENT.sub("", text)))


def from_config_map(answer: bytes) -> tuple[Network, ...]:
    """The ranges in the ConfigMap kubeadm-config, as the API server answers it; () when it has none."""
    try:
        config = json.loads(answer)["data"]["ClusterConfiguration"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ()
    return _networks(_SUBNET.search(_COMMENT.sub("", config))) if isinstance(config, str) else ()


def from_kubeconfig(text: str) -> Access:
    """The access that a kubeconfig of one cluster and one user gives.  ValueError when it gives none by certificate."""
    found = dict(re.findall(r"^[ \t]*(?:-[ \t]+)?([a-z-]+):[ \t]*['\"]?([^'\"\s#]+)", text, re.MULTILINE))
    values = [
        _file_or_content(found, name)
        for name in ("certificate-authority", "client-certificate", "client-key")
    ]
    server = found.get("server", "")
    if not server.startswith("https://") or not all(values):
        raise ValueError(
            "no server with a certificate authority, and a client certificate with its key, in it"
        )
    return Access(server, *values)


def _file_or_content(found: dict[str, str], name: str) -> str | bytes:
    try:
        return base64.b64decode(found.get(f"{name}-data", ""), validate=True) or found.get(name, "")
    except binascii.Error:
        raise ValueError(f"{name}-data is not base64") from None


def _networks(match: re.Match[str] | None) -> tuple[Network, ...]:
    try:
        return tuple(ip_network(part, strict=False) for part in match[1].split(",") if part) if match else ()
    except ValueError:
        return ()
