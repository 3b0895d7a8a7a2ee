"""Run on a node: times CNI plugins as a runtime calls them, process start included; JSON on standard output.

Arguments: rounds, pods at once, then for each plugin a JSON object with "name", "path" and "config".
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

CNI_PATH = "/opt/cni/bin:/usr/lib/cni"
Plugin = dict[str, Any]


def call(plugin: Plugin, command: str, pod: str) -> float:
    """Seconds from the plugin's start to its end."""
    environment = {
        "PATH": os.environ["PATH"],
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": f"{plugin['name']}-{pod}".replace("+", "-"),
        "CNI_NETNS": f"/run/netns/{pod}",
        "CNI_IFNAME": "eth0",
        "CNI_PATH": CNI_PATH,
        "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE=bench;K8S_POD_NAME={pod}",
    }
    stdin = json.dumps(plugin["config"])
    started = time.perf_counter()
    done = subprocess.run(
        [plugin["path"]], input=stdin, env=environment, capture_output=True, text=True, check=False
    )
    spent = time.perf_counter() - started
    if done.returncode != 0:
        sys.exit(f"{plugin['name']} {command} {pod}: {done.stdout}{done.stderr}")
    return spent


def at_once(plugin: Plugin, command: str, pods: list[str]) -> float:
    started = time.perf_counter()
    with ThreadPoolExecutor(len(pods)) as pool:
        list(pool.map(lambda pod: call(plugin, command, pod), pods))
    return time.perf_counter() - started


def main() -> None:
    rounds, many = int(sys.argv[1]), int(sys.argv[2])
    plugins = [json.loads(argument) for argument in sys.argv[3:]]
    pods = [f"pod-{number}" for number in range(many)]
    for pod in pods:
        subprocess.run(["ip", "netns", "add", pod], check=True)
    figures: dict[str, dict[str, list[float]]] = {
        plugin["name"]: {"ADD": [], "DEL": [], "ADD at once": [], "DEL at once": []} for plugin in plugins
    }
    for number in range(rounds):
        for plugin in plugins if number % 2 else plugins[::-1]:
            for command in ("ADD", "DEL"):
                figures[plugin["name"]][command].append(call(plugin, command, pods[number % many]))
    for _ in range(3):
        for plugin in plugins:
            for command in ("ADD", "DEL"):
                figures[plugin["name"]][f"{command} at once"].append(at_once(plugin, command, pods))
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
