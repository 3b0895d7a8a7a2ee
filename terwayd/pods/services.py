"""The Service ranges of the cluster: as configured, or as this node's own kube-apiserver says.  Pure."""

from __future__ import annotations

import re
from ipaddress import ip_network

from terwayd.config import Network

APISERVER_MANIFEST = "/etc/kubernetes/manifests/kube-apiserver.yaml"

_COMMENT = re.compile(r"^\s*#.*$", re.MULTILINE)
_RANGE = re.compile(r"--service-cluster-ip-range['\"]?(?:=|\s+)(?:-\s+)?['\"]?([0-9a-fA-F.:/,]+)")


def from_manifest(text: str) -> tuple[Network, ...]:
    """The ranges that the text of a kube-apiserver manifest names; () when it names none."""
    match = _RANGE.search(_COMMENT.sub("", text))
    if match is None:
        return ()
    try:
        return tuple(ip_network(part, strict=False) for part in match[1].split(",") if part)
    except ValueError:
        return ()
