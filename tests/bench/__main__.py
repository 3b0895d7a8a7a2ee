"""`make bench [ROUNDS=60]`: medians, 95th percentiles and ratios, and the same as JSON in build/bench.json."""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

from tests.lab import Lan
from tests.lab.machine import CHECKOUT, PYTHON

AT_ONCE = 50
OURS = "terwayd"
RANGE = [{"subnet": "192.168.77.0/24", "rangeStart": "192.168.77.30", "rangeEnd": "192.168.77.99"}]
PEERS = {
    "bridge+host-local": {
        "path": "/usr/lib/cni/bridge",
        "config": {"type": "bridge", "bridge": "mybr0", "ipam": {"type": "host-local", "ranges": [RANGE]}},
    },
}
MISSING = {"netavark+dhcp-proxy": "/usr/lib/podman/netavark"}


def measure(rounds: int) -> dict[str, dict[str, list[float]]]:
    with Lan() as lan:
        node = lan.node("n1")
        node.start_daemon().wait_ready()
        plugins: list[dict[str, Any]] = [
            {"name": OURS, "path": "/opt/cni/bin/cni-terway", "config": {"type": "cni-terway"}}
        ]
        for name, peer in PEERS.items():
            if node.path(str(peer["path"])).exists():
                plugins.append({"name": name, **peer})
            else:
                print(
                    f"missing: {name}: there is no {peer['path']} (apt install containernetworking-plugins)"
                )
        for name, path in MISSING.items():
            print(f"missing: {name}: not measured; Debian 12 has no {path} with a DHCP proxy")
        for plugin in plugins:
            plugin["config"] = {"cniVersion": "1.0.0", "name": "bench", **plugin["config"]}
        driver = str(CHECKOUT / "tests/bench/driver.py")
        arguments = [PYTHON, driver, str(rounds), str(AT_ONCE), *map(json.dumps, plugins)]
        done = node.run(arguments, timeout=600)
        released = len(lan.dhcp.messages("DHCPRELEASE"))
        print(f"{released} leases were given back to the DHCP server; it holds {len(lan.dhcp.leases())} now")
        figures: dict[str, dict[str, list[float]]] = json.loads(done.stdout)
        return figures


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    figures = measure(rounds)
    print(f"\nmilliseconds, process start included; {rounds} in turns, and 3 times {AT_ONCE} at once\n")
    print(f"{'':22}{'what':14}{'p50':>9}{'p95':>9}{'ours : it':>12}")
    for name, kinds in figures.items():
        for kind, values in kinds.items():
            median, high = statistics.median(values), sorted(values)[int(len(values) * 0.95)]
            ratio = statistics.median(figures[OURS][kind]) / median
            told = "" if name == OURS else f"{ratio:.2f}"
            print(f"{name:22}{kind:14}{median * 1000:9.1f}{high * 1000:9.1f}{told:>12}")
    out = Path("build", "bench.json")
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(figures, indent=1) + "\n")
    print(f"\nall of it: {out}")


if __name__ == "__main__":
    main()
