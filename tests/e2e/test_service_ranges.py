"""The Service range that nobody configured: asked of the API server with kubelet's own certificate, never by an ADD.

The API server is a TLS server that takes nobody without a certificate of the cluster's authority.
"""

from __future__ import annotations

import base64
import json
import time

import pytest

from tests.lab import Lan, Node, Pod, eventually
from tests.lab.machine import PYTHON

PKI = """
cd /run && mkdir -p pki && cd pki
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.crt -subj /CN=kubernetes
for name in apiserver kubelet stranger; do
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout $name.key -out $name.csr -subj /CN=$name
    printf 'subjectAltName=IP:192.168.77.2\\n' >$name.ext
    openssl x509 -req -in $name.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out $name.crt -extfile $name.ext
done
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout stranger.key -out stranger.crt -subj /CN=x
cat kubelet.crt kubelet.key >kubelet.pem
"""
SERVER = """
import http.server, socketserver, ssl
class Api(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        there = self.path == "/api/v1/namespaces/kube-system/configmaps/kubeadm-config"
        body = open("/run/answer.json", "rb").read() if there else b"{}"
        self.send_response(200 if there else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
http.server.HTTPServer.server_bind = socketserver.TCPServer.server_bind  # asks DNS for no name
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("/run/pki/apiserver.crt", "/run/pki/apiserver.key")
context.load_verify_locations("/run/pki/ca.crt")
context.verify_mode = ssl.CERT_REQUIRED
server = http.server.ThreadingHTTPServer(("", 6443), Api)
server.socket = context.wrap_socket(server.socket, server_side=True)
print("serving", flush=True)
server.serve_forever()
"""
CONFIG_MAP = {
    "kind": "ConfigMap",
    "data": {
        "ClusterConfiguration": "apiServer: {}\nkind: ClusterConfiguration\nnetworking:\n"
        "  dnsDomain: cluster.local\n  serviceSubnet: 10.96.0.0/12\nscheduler: {}\n"
    },
}


def kubeconfig(lan: Lan, *, embedded: bool, user: str = "kubelet") -> str:
    """As kubeadm writes it, and kubelet goes on with it: with the file's path, once it has renewed its certificate."""

    def content(name: str) -> str:
        return base64.b64encode(lan.host.path(f"/run/pki/{name}").read_bytes()).decode()

    own = (
        f"client-certificate-data: {content(f'{user}.crt')}\n    client-key-data: {content(f'{user}.key')}"
        if embedded
        else f"client-certificate: /run/{user}.pem\n    client-key: /run/{user}.pem"
    )
    return f"""apiVersion: v1
clusters:
- cluster:
    certificate-authority-data: {content("ca.crt")}
    server: https://192.168.77.2:6443
  name: kubernetes
kind: Config
users:
- name: system:node:n1
  user:
    {own}
"""


@pytest.fixture
def api_server(lan: Lan) -> Lan:
    lan.host.run(PKI)
    lan.host.write("/run/answer.json", json.dumps(CONFIG_MAP))
    process = lan.host.spawn([PYTHON, "-IS", "-c", SERVER], "/run/api.log")
    eventually(lambda: "serving" in lan.host.read("/run/api.log") and process.running, 10.0)
    return lan


def routed(pod: Pod) -> bool:
    return "10.96.0.0/12 via 192.168.77.11" in pod.run("ip route").stdout


@pytest.mark.parametrize("embedded", [True, False], ids=["embedded", "files"])
def test_the_range_of_kubeadm(api_server: Lan, embedded: bool) -> None:
    """A pod that was there before gets its route and its rules too, as soon as kubelet is told of its cluster."""
    lan = api_server
    node: Node = lan.node("n1", "")
    daemon = node.start_daemon().wait_ready()
    early = node.pod("early")
    early.add()
    assert not routed(early)
    eventually(lambda: daemon.log().count("no Service range is known") == 1, 5.0, "it is told")
    node.path("/run/kubelet.pem").write_bytes(lan.host.path("/run/pki/kubelet.pem").read_bytes())
    node.write("/etc/kubernetes/kubelet.conf", kubeconfig(lan, embedded=embedded))
    eventually(lambda: routed(early), 5.0, "the early pod has its route")
    late = node.pod("late")
    late.add()
    assert routed(late)
    assert "table inet terwayd" in node.run("nft list tables").stdout
    assert (
        "hairpin on" in node.run(f"bridge -d link show dev {node.status()['pods'][0]['host_ifname']}").stdout
    )
    assert daemon.log().count("no Service range is known") == 1
    assert not list(node.path("/var/lib/terwayd").glob("*.pem"))


def test_an_api_server_that_does_not_say_yet_is_asked_again(api_server: Lan) -> None:
    """As during `kubeadm init`, which writes the ConfigMap last."""
    lan = api_server
    lan.host.write("/run/answer.json", "{}")
    node = lan.node("n1", "")
    node.write("/etc/kubernetes/kubelet.conf", kubeconfig(lan, embedded=True))
    daemon = node.start_daemon().wait_ready()
    pod = node.pod("web-0")
    pod.add()
    eventually(lambda: "kubeadm-config names none" in daemon.log(), 5.0)
    lan.host.write("/run/answer.json", json.dumps(CONFIG_MAP))
    eventually(lambda: routed(pod), 5.0, "the range is found, and no file has changed")


def test_a_node_that_becomes_a_control_plane(lan: Lan) -> None:
    """The directory of its manifests is not there before."""
    node = lan.node("n1", "")
    node.start_daemon().wait_ready()
    pod = node.pod("web-0")
    pod.add()
    manifest = "spec:\n  containers:\n  - command:\n    - --service-cluster-ip-range=10.96.0.0/12\n"
    node.write("/etc/kubernetes/manifests/kube-apiserver.yaml", manifest)
    eventually(lambda: routed(pod), 5.0, "the pod has its route")


def test_no_add_waits_for_an_api_server(api_server: Lan) -> None:
    """One that does not answer, one that takes us for a stranger."""
    lan = api_server
    node = lan.node("n1", "")
    silent = kubeconfig(lan, embedded=True).replace("192.168.77.2:6443", "192.168.77.250:6443")
    node.write("/etc/kubernetes/kubelet.conf", silent)
    daemon = node.start_daemon().wait_ready()
    pod = node.pod("web-0")
    pod.add()
    assert pod.seconds < 2.0
    began = time.monotonic()
    assert daemon.term() == 0
    assert time.monotonic() - began < 3.0
    node.write("/etc/kubernetes/kubelet.conf", kubeconfig(lan, embedded=True, user="stranger"))
    daemon = node.start_daemon().wait_ready()
    eventually(lambda: "no Service range is known" in daemon.log(), 10.0)
    assert not routed(pod)
    assert node.status()["state"] == "ready"
