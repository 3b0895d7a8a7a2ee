"""The Service ranges of the cluster, as kube-apiserver's manifest on this node says."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from terwayd.pods.services import from_manifest

KUBEADM = """
apiVersion: v1
kind: Pod
spec:
  containers:
  - command:
    - kube-apiserver
    - --advertise-address=192.168.0.10
    - --service-account-issuer=https://kubernetes.default.svc.cluster.local
    - {}
    - --tls-cert-file=/etc/kubernetes/pki/apiserver.crt
"""


@pytest.mark.parametrize(
    ("flag", "ranges"),
    [
        ("--service-cluster-ip-range=10.96.0.0/12", ["10.96.0.0/12"]),
        ("--service-cluster-ip-range=10.96.0.0/12,fd00:1::/108", ["10.96.0.0/12", "fd00:1::/108"]),
        ("--service-cluster-ip-range=FD00:1::/108", ["fd00:1::/108"]),
        ('"--service-cluster-ip-range=10.96.0.0/12"', ["10.96.0.0/12"]),
        ("--service-cluster-ip-range='10.96.0.0/12'", ["10.96.0.0/12"]),
        ("--service-cluster-ip-range 10.96.0.0/12", ["10.96.0.0/12"]),
        ("--service-cluster-ip-range\n    - 10.96.0.0/12", ["10.96.0.0/12"]),
        ("--service-cluster-ip-range=10.96.0.1/12", ["10.96.0.0/12"]),  # as Kubernetes reads it
        ("--service-cluster-ip-range=10.96.0.0/12,", ["10.96.0.0/12"]),
        ("--service-cluster-ip-range=", []),
        ("--service-cluster-ip-range=10.96.0.0/33", []),
        ("--service-node-port-range=30000-32767", []),
        ("", []),
    ],
)
def test_the_ranges_of_a_manifest(flag: str, ranges: list[str]) -> None:
    assert from_manifest(KUBEADM.format(flag)) == tuple(ip_network(text) for text in ranges)


def test_a_line_that_is_a_comment_is_none() -> None:
    commented = KUBEADM.format("--secure-port=6443\n    # - --service-cluster-ip-range=10.0.0.0/24")
    assert from_manifest(commented) == ()
    assert from_manifest(commented + "    - --service-cluster-ip-range=10.96.0.0/12") == (
        ip_network("10.96.0.0/12"),
    )


@given(st.text())  # type: ignore[misc]
def test_no_text_breaks_it(text: str) -> None:
    assert from_manifest(text) == () or "--service-cluster-ip-range" in text
    from_manifest(f"--service-cluster-ip-range={text}")
