"""Run on a node: calls CNI plugins, or netavark, as a container runtime does, and times it; process start included.

Each line of standard input is a JSON object: "calls" is a list of [command, pod], "by" what to call.
"together" makes the calls at the same time.  Each answer is a line: {"each": [seconds...], "all": seconds}.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

CNI_PATH = "/opt/cni/bin:/usr/lib/cni"
Peer = dict[str, Any]


def cni(peer: Peer, command: str, pod: str) -> tuple[list[str], str, dict[str, str]]:
    environment = {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": f"{peer['name']}-{pod}".replace("+", "-"),
        "CNI_NETNS": f"/run/netns/{pod}",
        "CNI_IFNAME": "eth0",
        "CNI_PATH": CNI_PATH,
        "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE=bench;K8S_POD_NAME={pod}",
    }
    return list(peer["run"]), json.dumps(peer["config"]), environment


def netavark(peer: Peer, command: str, pod: str) -> tuple[list[str], str, dict[str, str]]:
    """What podman hands to netavark for a network of its own bridge."""
    network = {
        "name": "bench",
        "id": "0" * 64,
        "driver": "bridge",
        "network_interface": peer["bridge"],
        "subnets": None,
        "ipv6_enabled": False,
        "internal": False,
        "dns_enabled": False,
        "ipam_options": {"driver": "dhcp"},
        "options": {"mode": "unmanaged"},
    }
    asked = {
        "container_id": hashlib.sha256(pod.encode()).hexdigest(),
        "container_name": pod,
        "networks": {"bench": {"interface_name": "eth0"}},
        "network_info": {"bench": network},
    }
    words = [*peer["run"], {"ADD": "setup", "DEL": "teardown"}[command], f"/run/netns/{pod}"]
    return words, json.dumps(asked), {}


def call(peer: Peer, command: str, pod: str) -> float:
    """Seconds from the start of the process to its end."""
    words, stdin, environment = (netavark if peer["name"].startswith("netavark") else cni)(peer, command, pod)
    environment["PATH"] = os.environ["PATH"]
    started = time.perf_counter()
    done = subprocess.run(words, input=stdin, env=environment, capture_output=True, text=True, check=False)
    spent = time.perf_counter() - started
    if done.returncode != 0:
        sys.exit(f"{peer['name']} {command} {pod}: {done.stdout}{done.stderr}")
    return spent


def answer(order: dict[str, Any]) -> dict[str, Any]:
    peer, calls = order["by"], order["calls"]
    for _, pod in calls:
        if not Path("/run/netns", pod).exists():
            subprocess.run(["ip", "netns", "add", pod], check=True)
    started = time.perf_counter()
    if order.get("together"):
        with ThreadPoolExecutor(len(calls)) as pool:
            each = list(pool.map(lambda item: call(peer, *item), calls))
    else:
        each = [call(peer, *item) for item in calls]
    return {"each": each, "all": time.perf_counter() - started}


def main() -> None:
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
