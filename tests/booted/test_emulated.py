"""terwayd on Debian's own kernel, whose features are modules, and on NICs with real drivers."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.booted.booted import Booted
from tests.booted.conftest import Install
from tests.booted.emulated import PACKAGES, Emulated, image
from tests.e2e.shared import findings_in
from tests.lab import Lan, eventually, ntp
from tests.lab.machine import PYTHON

pytestmark = [pytest.mark.booted, pytest.mark.long]

CONFLIST = "/etc/cni/net.d/10-terway.conflist"
PLUGIN = "/opt/cni/bin/cni-terway"
TIME_SERVICE = "systemd-timesyncd"


@pytest.fixture(scope="module")
def disk(installed: Install, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """With the package installed; a time service, and the kernel once more, are in apt's archive."""
    with Booted("node", *installed("bookworm", (*PACKAGES, "dnsmasq-base")), number=61) as machine:
        machine.interfaces()
        machine.prepare(
            f"apt-get -q -y install --download-only {TIME_SERVICE}; kernel=$(ls /lib/modules); "
            "apt-get -q -y install --download-only --reinstall linux-image-$kernel"
        )
        # An initrd would take minutes, emulated, and is none of terwayd's business.
        machine.path("/etc/kernel/postinst.d/initramfs-tools").unlink()
        made = image(machine, tmp_path_factory.mktemp("emulated"))
    yield made
    made.unlink()


@pytest.fixture
def machine(disk: Path, lan: Lan, request: pytest.FixtureRequest) -> Iterator[Emulated]:
    """A machine that has booted; its NICs are of the models that an indirect parameter names."""
    nics = getattr(request, "param", ("virtio-net-pci",))
    with Emulated("node", disk, lan, nics=nics) as emulated:
        emulated.boot()
        failed = request.session.testsfailed
        yield emulated
        if request.session.testsfailed > failed:
            print(emulated.run("journalctl -b --no-pager -u terwayd | tail -40", check=False).stdout)


def examine(machine: Emulated, group: str, *ignored: str) -> dict[str, dict[str, Any]]:
    """The findings by their code; the exit status has to agree with them."""
    words = [word for code in ignored for word in ("--ignore", code)]
    done = machine.run(["terwayctl", "doctor", "--json", *words, group], check=False)
    return findings_in(done)


def assert_well(found: dict[str, Any]) -> None:
    assert found["severity"] == "well", found


def follow(machine: Emulated, hint: str) -> None:
    """Type what the hint says."""
    for command in hint.split("; "):
        machine.run(command, env={"DEBIAN_FRONTEND": "noninteractive"}, timeout=150.0)


def ready(machine: Emulated) -> bool:
    return machine.run("terwayctl status", check=False).returncode == 0


def attach(machine: Emulated, name: str = "web-0") -> str:
    """A new pod, attached by the plugin that the daemon has put in place; its address."""
    conflist = json.loads(machine.read(CONFLIST))
    machine.run(f"ip netns add {name}")
    asked = {"cniVersion": "1.0.0", "name": conflist["name"], **conflist["plugins"][0]}
    environment = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": name,
        "CNI_NETNS": f"/run/netns/{name}",
        "CNI_IFNAME": "eth0",
        "CNI_PATH": "/opt/cni/bin",
    }
    result = json.loads(machine.run([PLUGIN], input=json.dumps(asked), env=environment).stdout)
    return str(result["ips"][0]["address"].partition("/")[0])


@pytest.mark.parametrize("machine", [("vmxnet3",)], indirect=True)
def test_a_virtual_machine_of_esxi(machine: Emulated, lan: Lan) -> None:
    """Its NIC is taken over and given back; what only such a kernel can have wrong is found and mended."""
    eventually(lambda: "tentative" not in machine.run("ip -6 addr").stdout, 10, "its addresses are its own")
    before = machine.state()
    assert machine.run("basename $(readlink /sys/class/net/eth0/device/driver)").stdout == "vmxnet3\n"
    found = examine(machine, "host", "clock")["daemon"]
    follow(machine, found["hint"])
    assert ready(machine)
    address = attach(machine)
    assert lan.host.ping(address, count=3)
    assert lan.host.ping(machine.address, count=3)

    machine.run("ip link set mybr0 type bridge vlan_filtering 1")
    found = examine(machine, "bridge")["vlan-filtering"]
    assert (found["severity"], found["message"]) == (
        "warning",
        "VLAN filtering is on for mybr0: pods hear only VLANs that their ports are in",
    )
    machine.run("bridge vlan del dev eth0 vid 1")
    assert not lan.host.ping(address)
    follow(machine, found["hint"])
    assert lan.host.ping(address)

    machine.run("systemctl stop terwayd")
    found = examine(machine, "host", "clock")["daemon"]
    assert found["message"] == "terwayd does not answer"
    follow(machine, found["hint"])
    assert {each["severity"] for code, each in examine(machine, "", "clock").items() if code != "clock"} == {
        "well"
    }

    machine.run("terwayctl teardown --force")
    eventually(lambda: before.diff(machine.state()) == [], 10, "the network is as it was")
    assert lan.host.ping(machine.address, count=3)
    assert "a packet may be lost" not in machine.run("journalctl -u terwayd").stdout, (
        "the kernel could divert"
    )
    assert machine.run("nft list tables").stdout == ""


def test_modules_that_are_forbidden(machine: Emulated, lan: Lan) -> None:
    """By a command in place of them, and by a blacklist: found, and mended for the next boot too."""
    hardening = "/etc/modprobe.d/hardening.conf"
    machine.write(
        hardening,
        "install bridge /bin/false\nblacklist veth\n# install nothing\ninstall nf_tables /bin/false\ninstall cls_bpf /bin/false\n",
    )
    machine.run("systemctl enable --now terwayd")
    told = machine.run("terwayctl status", check=False)
    assert "ip link add mybr0 type bridge: Operation not supported" in told.stdout
    assert "→ terwayctl doctor kernel" in told.stdout
    found = examine(machine, "kernel")["features"]
    lacking = [
        f"this kernel lacks {each}, which {hardening} forbids"
        for each in ("bridge", "veth", "nf_tables", "cls_bpf")
    ]
    assert found["message"] == "; ".join(lacking)
    follow(machine, found["hint"])
    assert machine.read(hardening) == "# install nothing\n"
    assert_well(examine(machine, "kernel")["features"])
    machine.reboot()
    assert eventually(lambda: ready(machine), 20)
    assert lan.host.ping(attach(machine), count=3)


def test_a_module_that_is_not_there(machine: Emulated) -> None:
    release = machine.run("uname -r").stdout.strip()
    machine.run(f"rm /lib/modules/{release}/kernel/net/bridge/bridge.ko")
    found = examine(machine, "kernel")["features"]
    assert (found["severity"], found["message"], found["hint"]) == (
        "error",
        f"this kernel lacks bridge, which is not in /lib/modules/{release}",
        f"apt install --reinstall linux-image-{release}",
    )
    follow(machine, found["hint"])
    assert_well(examine(machine, "kernel")["features"])


def test_a_clock_that_is_wrong(machine: Emulated, lan: Lan) -> None:
    """A small Debian has nothing that sets its clock; then it is switched off; then no server answers it."""
    lan.gateway.spawn([PYTHON, "-IS", ntp.__file__], "/var/log/ntp.log")
    machine.write("/etc/systemd/timesyncd.conf.d/lan.conf", f"[Time]\nNTP={lan.gateway_ip}\n")
    machine.run("systemctl enable --now terwayd")
    address = attach(machine)

    def clock() -> dict[str, Any]:
        return examine(machine, "host")["clock"]

    def right() -> bool:
        seconds = float(machine.run("date +%s.%N").stdout)
        return abs(seconds - time.time()) < 10 and clock()["message"] == "the clock is right"

    found = clock()
    assert (found["severity"], found["message"], found["hint"]) == (
        "warning",
        "the clock is not synchronised with any other",
        f"apt install {TIME_SERVICE}",
    )
    machine.run("date -s '-3 days'")
    found = clock()
    assert found["severity"] == "error"
    assert found["message"].startswith("the clock is 3 days behind /")
    follow(machine, found["hint"])
    eventually(right, 60, "the clock is right", 1.0)

    machine.run(f"timedatectl set-ntp false && systemctl stop {TIME_SERVICE} && date -s '-3 days'")
    found = clock()
    assert (found["severity"], found["hint"]) == ("error", "timedatectl set-ntp true")
    follow(machine, found["hint"])
    eventually(right, 60, "the clock is right", 1.0)

    machine.write("/etc/systemd/timesyncd.conf.d/lan.conf", "")
    machine.write("/etc/systemd/timesyncd.conf", "[Time]\nNTP=192.168.77.99\n")
    machine.run(f"systemctl restart {TIME_SERVICE}; date -s '-1 hour'")
    found = clock()
    assert (found["severity"], found["message"]) == (
        "warning",
        "the clock is not synchronised with any other: no time server answers",
    )
    change, command = found["hint"].split("; ")
    assert change == "name a server that answers: NTP= in /etc/systemd/timesyncd.conf"
    machine.run(f"sed -i 's/^NTP=.*/NTP={lan.gateway_ip}/' /etc/systemd/timesyncd.conf")
    follow(machine, command)
    eventually(right, 60, "the clock is right", 1.0)
    assert ready(machine)
    assert lan.host.ping(address, count=3)


def refused(machine: Emulated, config: str) -> dict[str, Any]:
    """The finding about the NIC that such a configuration wants; it has to be the daemon's own reason."""
    machine.write("/etc/terway.toml", config)
    machine.run("systemctl restart terwayd")
    found = examine(machine, "host", "clock", "daemon")["uplink"]
    assert found["severity"] == "error"
    told = machine.run("terwayctl status", check=False).stdout
    assert found["message"] in told
    assert f"→ {found['hint']}" in told
    return found


def assert_taken(machine: Emulated, config: str, uplink: str) -> None:
    machine.write("/etc/terway.toml", config)
    machine.run("systemctl restart terwayd")
    assert ready(machine)
    assert machine.ip_json(f"link show {uplink}")[0]["master"] == "mybr0"
    assert_well(examine(machine, "host", "clock")["uplink"])


TWO = pytest.mark.parametrize("machine", [("virtio-net-pci",) * 2], indirect=True)


@TWO
def test_two_nics_as_one(machine: Emulated, lan: Lan) -> None:
    """A NIC of a bond is refused, and the bond taken."""
    machine.run(
        "modprobe bonding max_bonds=0; ip link add bond0 type bond mode active-backup miimon 100;"
        "for nic in eth0 eth1; do ip addr flush dev $nic; ip link set $nic down; ip link set $nic master bond0; done;"
        f"ip link set bond0 up; ip addr add {machine.address}/24 dev bond0; ip route add default via {lan.gateway_ip}"
    )
    assert eventually(lambda: machine.ping(lan.gateway_ip), 10)
    found = refused(machine, '[host]\nuplink = "eth0"\n')
    assert found["message"] == "host.uplink: eth0 is under the bond bond0 already"
    assert found["hint"] == ("take it out there first, or name another NIC: host.uplink in /etc/terway.toml")
    assert_taken(machine, '[host]\nuplink = "bond0"\n', "bond0")
    assert lan.host.ping(machine.address, count=3)
    assert lan.host.ping(attach(machine), count=3)


@TWO
def test_a_vlan(machine: Emulated, lan: Lan) -> None:
    """A NIC that carries a VLAN is refused, and the VLAN taken; the second NIC is its other end."""
    machine.run(
        "ip netns add office; ip link set eth1 netns office; ip -n office link set eth1 up;"
        "ip -n office link add link eth1 name eth1.10 type vlan id 10; ip -n office addr add 10.10.0.1/24 dev eth1.10;"
        "ip -n office link set eth1.10 up; ip netns exec office dnsmasq --conf-file=/dev/null --port=0 "
        "--interface=eth1.10 --bind-interfaces --no-ping --dhcp-range=10.10.0.100,10.10.0.200;"
        "ip link add link eth0 name eth0.10 type vlan id 10; ip link set eth0.10 up"
    )
    found = refused(machine, "")
    assert found["message"] == "host.uplink: eth0 carries eth0.10, which would fall silent"
    assert found["hint"] == "name another NIC: host.uplink in /etc/terway.toml"
    machine.run(
        "ip addr add 10.10.0.2/24 dev eth0.10; ip route del default; ip route add default via 10.10.0.1"
    )
    assert eventually(lambda: machine.ping("10.10.0.1"), 10)
    assert_taken(machine, '[host]\nuplink = "eth0.10"\n', "eth0.10")
    address = attach(machine)
    assert address.startswith("10.10.0.1")
    machine.run(f"ip netns exec office ping -nqc 3 -i 0.2 {address}")
    assert lan.host.ping(machine.address, count=3)
