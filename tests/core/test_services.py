"""The Service ranges of the cluster, as kube-apiserver's manifest on this node says."""

from __future__ import annotations

import contextlib
import json
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from terwayd.pods.services import Access, from_config_map, from_kubeconfig, from_manifest

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


CONFIG_MAP = """apiServer: {{}}
networking:
  dnsDomain: cluster.local
  podSubnet: 10.244.0.0/16
{}
scheduler: {{}}
"""


@pytest.mark.parametrize(
    ("line", "ranges"),
    [
        ("  serviceSubnet: 10.96.0.0/12", ["10.96.0.0/12"]),
        ('  serviceSubnet: "10.96.0.0/12,fd00:10:96::/112"', ["10.96.0.0/12", "fd00:10:96::/112"]),
        ("  # serviceSubnet: 10.96.0.0/12", []),
        ("  serviceSubnet: 10.96.0.0/99", []),
        ("", []),
    ],
)
def test_the_range_in_kubeadms_config_map(line: str, ranges: list[str]) -> None:
    answer = json.dumps({"data": {"ClusterConfiguration": CONFIG_MAP.format(line)}}).encode()
    assert from_config_map(answer) == tuple(map(ip_network, ranges))


@pytest.mark.parametrize(
    "answer", [b"", b"[]", b"{}", b'{"data": null}', b'{"data": {"ClusterConfiguration": 1}}']
)
def test_a_config_map_of_another_kind_has_none(answer: bytes) -> None:
    assert from_config_map(answer) == ()


KUBECONFIG = """apiVersion: v1
clusters:
- cluster:
    certificate-authority-data: Y2E=
    server: https://192.168.0.10:6443
  name: kubernetes
users:
- name: default-auth
  user:
    client-certificate: /var/lib/kubelet/pki/kubelet-client-current.pem
    client-key: /var/lib/kubelet/pki/kubelet-client-current.pem
"""


def test_the_access_that_kubelet_has() -> None:
    pem = "/var/lib/kubelet/pki/kubelet-client-current.pem"
    assert from_kubeconfig(KUBECONFIG) == Access("https://192.168.0.10:6443", b"ca", pem, pem)


@pytest.mark.parametrize(
    ("what", "other"),
    [
        ("https:", "http:"),
        ("certificate-authority-data", "insecure-skip-tls-verify"),
        ("client-key:", "token:"),
        ("Y2E=", "Y2E"),
        ("server:", "sever:"),
    ],
)
def test_an_access_that_is_not_by_certificate_is_none(what: str, other: str) -> None:
    with pytest.raises(ValueError, match="certificate"):
        from_kubeconfig(KUBECONFIG.replace(what, other))


@given(st.text())  # type: ignore[misc]
def test_no_text_breaks_them(text: str) -> None:
    from_config_map(text.encode(errors="surrogatepass"))
    with contextlib.suppress(ValueError):
        from_kubeconfig(text)
