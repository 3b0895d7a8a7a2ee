"""docs/fleet.md, as it is written: Ansible's play against two machines, and a first boot with cloud-init."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.booted import repository, roots
from tests.booted.booted import Booted
from tests.booted.test_package import assert_attached, assert_bridged, assert_ready, attach, network
from tests.booted.test_readme import TEXTFILE
from tests.core.test_docs import block, to_run
from tests.lab import Lan, eventually

pytestmark = [pytest.mark.booted, pytest.mark.long]

NODE = ("openssh-server", "sudo", "python3-apt", "unattended-upgrades")
ADMIN = ("ansible-core", "openssh-client")
NODES = ("n1", "n2")
RECAP = re.compile(r"(?m)^(\w+) +: ok=(\d+) +changed=(\d+) +unreachable=(\d+) +failed=(\d+)")


@pytest.fixture
def fleet(package: Path, lan: Lan) -> Iterator[tuple[Booted, list[Booted]]]:
    """An administrator's machine with Ansible, and two that it reaches by SSH as a user who may use sudo."""
    debian = roots.root("bookworm", NODE)
    repository.serve(lan, package, debian)
    with ExitStack() as stack:
        admin = stack.enter_context(Booted("admin", roots.root("bookworm", ADMIN), number=50))
        admin.interfaces()
        admin.prepare("ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_ed25519")
        key = admin.read("/root/.ssh/id_ed25519.pub")
        nodes = [
            stack.enter_context(Booted(name, debian, number=number)) for number, name in enumerate(NODES, 51)
        ]
        for node in nodes:
            node.interfaces()
            repository.use(node)
            node.prepare("useradd --create-home --groups sudo --shell /bin/bash ops")
            node.write("/etc/sudoers.d/ops", "ops ALL=(ALL) NOPASSWD: ALL\n", 0o440)
            node.write("/etc/ssh/authorized_keys", key)
            node.write("/etc/ssh/sshd_config.d/keys.conf", "AuthorizedKeysFile /etc/ssh/authorized_keys\n")
        for machine in (admin, *nodes):
            machine.boot(lan)
        admin.write("/root/play.yml", block("docs/fleet.md", "run: ansible"))
        admin.write(
            "/root/inventory",
            "[nodes]\n" + "".join(f"{node.name} ansible_host={node.address}\n" for node in nodes),
        )
        for node in nodes:
            admin.run(f"ssh-keyscan -t ed25519 {node.address} >>/root/.ssh/known_hosts")
        yield admin, nodes


def play(admin: Booted) -> tuple[str, dict[str, tuple[int, ...]]]:
    """Run the document's play; what it said, and each machine's ok, changed, unreachable, failed."""
    done = admin.run(
        "cd /root && ansible-playbook --inventory inventory --user ops play.yml",
        check=False,
        timeout=180,
    )
    said = done.stdout + done.stderr
    return said, {name: tuple(map(int, counts)) for name, *counts in RECAP.findall(said)}


def test_the_play(fleet: tuple[Booted, list[Booted]], next_package: Path, lan: Lan) -> None:
    admin, nodes = fleet
    before = [network(node) for node in nodes]
    lan.dhcp.stop()
    said, recap = play(admin)
    assert "what the LAN says, before anything is changed" in said.rpartition("TASK [")[2]
    assert recap["n1"][3] == 1, said
    assert "n2" not in recap, said  # the play ended with the first machine
    assert [state.diff(network(node)) for state, node in zip(before, nodes, strict=True)] == [[], []]
    lan.dhcp.start()

    said, recap = play(admin)
    assert {name: counts[2:] for name, counts in recap.items()} == dict.fromkeys(NODES, (0, 0)), said
    pods = []
    for node in nodes:
        assert_ready(node)
        assert_bridged(node, lan)
        assert node.systemctl("is-enabled", "terwayd") == "enabled"
        configured = json.loads(node.run("terwayctl config show --json").stdout)["config"]
        assert configured["pods"]["service_cidrs"] == ["10.96.0.0/12"]
        pods.append(attach(node, lan, f"web-{node.name}"))
    assert pods[0].ping(pods[1].address)

    started = [node.property("terwayd", "ExecMainStartTimestampMonotonic") for node in nodes]
    said, recap = play(admin)
    assert {name: counts[1:] for name, counts in recap.items()} == dict.fromkeys(NODES, (0, 0, 0)), said
    assert [node.property("terwayd", "ExecMainStartTimestampMonotonic") for node in nodes] == started
    for pod in pods:
        assert_attached(pod, lan)
    play_file = admin.read("/root/play.yml")
    admin.write("/root/play.yml", play_file.replace("10.96.0.0/12", "10.32.0.0/16"))
    said, recap = play(admin)
    assert {name: counts[1:] for name, counts in recap.items()} == dict.fromkeys(NODES, (2, 0, 0)), said
    assert "10.32.0.0/16" in nodes[1].run("terwayctl config show").stdout

    repository.publish(lan, next_package)
    nodes[0].run(["sh", "-ec", block("docs/fleet.md", "run: unattended")])
    told = nodes[0].run("apt-get update && unattended-upgrade --verbose", timeout=120)
    versions = [node.run("dpkg-query -W -f '${Version}' terwayd").stdout for node in nodes]
    assert [version.endswith("+next") for version in versions] == [True, False], told.stdout + told.stderr
    assert_ready(nodes[0])
    assert "10.32.0.0/16" in nodes[0].run("terwayctl config show").stdout
    for pod in pods:
        assert_attached(pod, lan)


# Of what Debian's images for clouds have: ifupdown with dhclient, or netplan.
CLOUD = {
    "bookworm": ("cloud-init", "curl", "locales", "isc-dhcp-client"),
    "trixie": ("cloud-init", "curl", "locales", "netplan.io", "systemd-resolved"),
}
# The sources of apt are the image's, too, and no locale is made.
IMAGE = """\
apt: {{preserve_sources_list: true}}
locale: C.UTF-8
system_info: {{network: {{renderers: [{renderer}]}}}}
"""


@pytest.mark.parametrize("suite", CLOUD)
def test_a_first_boot_with_cloud_init(suite: str, package: Path, lan: Lan) -> None:
    debian = roots.root(suite, CLOUD[suite])
    netplan = "netplan.io" in CLOUD[suite]
    repository.serve(lan, package, debian)
    with Booted("cloud", debian) as machine:
        repository.use(machine)
        machine.interfaces("source /etc/network/interfaces.d/*\n")
        machine.prepare(
            f"systemctl {'enable' if netplan else 'disable'} systemd-networkd && ! command -v terwayd"
        )
        renderer = "netplan" if netplan else "eni"
        machine.write("/etc/cloud/cloud.cfg.d/01_debian.cfg", IMAGE.format(renderer=renderer))
        seed = "/var/lib/cloud/seed/nocloud"
        machine.write(f"{seed}/meta-data", "instance-id: first\nlocal-hostname: cloud\n")
        if netplan:  # of itself it would match the NIC's permanent MAC address, which a veth does not have
            machine.write(f"{seed}/network-config", "version: 2\nethernets: {eth0: {dhcp4: true}}\n")
        machine.write(f"{seed}/user-data", block("docs/fleet.md", "run: cloud-init"))
        machine.boot(lan, timeout=180)
        status = json.loads(
            machine.run("cloud-init status --wait --format json", timeout=120, check=False).stdout
        )
        log = machine.run("cat /var/log/cloud-init-output.log").stdout
        assert (status["status"], status["errors"]) == ("done", []), log[-6000:]
        assert "takes pods" in log or "ready" in log, log[-3000:]
        assert machine.systemctl("is-enabled", "terwayd") == "enabled"
        assert_ready(machine)
        address = bridged(machine, lan)
        pod = attach(machine, lan)
        assert "10.96.0.0/12" in machine.run("terwayctl config show").stdout
        machine.path(TEXTFILE).parent.mkdir(parents=True)
        shown = [machine.run(line).stdout for line in to_run("docs/metrics.md", "run: metrics")]
        shown.append(machine.read(TEXTFILE))
        assert ["terway_pods 1\n" in page for page in shown] == [True, False, True, True]
        pod.delete()

        machine.reboot()
        assert_ready(machine)
        assert bridged(machine, lan) == address
        attach(machine, lan)


def bridged(machine: Booted, lan: Lan) -> str:
    """The address that cloud-init's DHCP has leased, which is on the bridge now."""
    assert machine.ip_json("link show eth0")[0]["master"] == "mybr0"
    [address] = [info["local"] for info in machine.ip_json("-4 addr show mybr0")[0]["addr_info"]]
    eventually(lambda: lan.host.ping(address), 5, "the LAN reaches it")
    return str(address)
