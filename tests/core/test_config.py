"""/etc/terway.toml: what it may say, and that every mistake is told with the key and the way out."""

from __future__ import annotations

import re
import tomllib
from dataclasses import fields
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.config import toml
from terwayd.config import (
    CniConfig,
    Config,
    DhcpConfig,
    HostConfig,
    MetricsConfig,
    PodsConfig,
    parse,
    values,
)
from terwayd.errors import ConfigError

SHIPPED = Path(__file__).parents[2] / "etc/terway.toml"


OTHERS = """
[host]
uplink = "ens3"
verify = ["tcp:[2001:db8::1]:6443", "gateway"]
verify_timeout = "500ms"
confirm_timeout = "300m"
[dhcp]
servers = ["192.0.2.1", "192.0.2.2"]
hostname = false
vendor_class = 'quo"te\\\\'
[pods]
service_cidrs = ["10.96.0.0/12", "2001:db8::/64"]
mtu = 1400
[cni]
bin_dirs = ["/opt/cni/bin", "/usr/lib/cni"]
"""


def refused(text: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert caught.value.hint
    assert caught.value.cni_code == 7
    return caught.value


def keys() -> dict[str, list[str]]:
    sections = [item for item in fields(Config) if item.name != "path"]
    return {item.name: [key.name for key in fields(type(getattr(Config(), item.name)))] for item in sections}


@pytest.mark.parametrize("text", ["", "\n", "# nothing\n", "[host]\n[dhcp]\n[pods]\n[cni]\n"])
def test_nothing_said_is_the_default(text: str) -> None:
    assert parse(text) == Config()


def test_the_defaults() -> None:
    assert Config() == Config(
        HostConfig(
            "auto",
            "mybr0",
            address="keep",
            gateway=(),
            dns=(),
            mtu=0,
            verify=("gateway",),
            verify_timeout=10.0,
            confirm_timeout=90.0,
        ),
        DhcpConfig(
            timeout=60.0,
            client_id="pod",
            hostname=True,
            vendor_class="terwayd",
            request=(),
            rapid_commit=False,
            conflict_detection="off",
            discover_rate=50,
            servers=None,
        ),
        PodsConfig(
            mac="stable", service_cidrs=None, default_route=True, mtu=0, ipv6="slaac", lost_lease="keep"
        ),
        CniConfig(
            name="terway", bin_dirs=("/opt/cni/bin",), conf_dir="/etc/cni/net.d", chain=(), add_timeout=90.0
        ),
        MetricsConfig(listen=""),
        "/etc/terway.toml",
    )


def test_the_file_that_is_shipped_shows_every_key_with_its_default() -> None:
    text = SHIPPED.read_text()
    assert parse(text) == Config()
    shown = re.sub(r"^#(\w+ = )", r"\1", text, flags=re.MULTILINE)
    assert {section: list(values) for section, values in tomllib.loads(shown).items()} == keys()
    assert parse(shown) == Config()


def test_every_key() -> None:
    text = """
    [host]
    uplink = "ens18"
    bridge = "br-lan"
    address = ["192.0.2.10/24"]
    gateway = ["192.0.2.1"]
    dns = ["192.0.2.53"]
    mtu = 1400
    verify = ["gateway", "tcp:192.0.2.5:6443", "tcp:[2001:db8::5]:443"]
    verify_timeout = "500ms"
    confirm_timeout = "5m"
    [dhcp]
    timeout = "2m"
    client_id = "mac"
    hostname = "fqdn"
    vendor_class = ""
    request = [66, 150, 66]
    rapid_commit = true
    conflict_detection = "fast"
    discover_rate = 10
    servers = ["192.0.2.1"]
    [pods]
    mac = "random"
    service_cidrs = ["10.96.0.0/12", "fd00::/108"]
    default_route = false
    mtu = 1400
    ipv6 = "off"
    lost_lease = "down"
    antispoof = false
    [cni]
    name = "lan-1.x_y"
    bin_dirs = ["/usr/libexec/cni", "/opt/cni/bin"]
    conf_dir = "/etc/cni/other"
    chain = ["portmap", { type = "tuning", sysctl = { "net.core.somaxconn" = "500" } }]
    add_timeout = "2m"
    [metrics]
    listen = "[::]:9753"
    """
    assert parse(text, "/tmp/t.toml") == Config(
        HostConfig(
            "ens18",
            "br-lan",
            (IPv4Interface("192.0.2.10/24"),),
            (IPv4Address("192.0.2.1"),),
            (IPv4Address("192.0.2.53"),),
            1400,
            ("gateway", "tcp:192.0.2.5:6443", "tcp:[2001:db8::5]:443"),
            0.5,
            300.0,
        ),
        DhcpConfig(120.0, "mac", "fqdn", "", (66, 150), True, "fast", 10, (IPv4Address("192.0.2.1"),)),
        PodsConfig(
            "random",
            (IPv4Network("10.96.0.0/12"), IPv6Network("fd00::/108")),
            False,
            1400,
            "off",
            "down",
            False,
        ),
        CniConfig(
            "lan-1.x_y",
            ("/usr/libexec/cni", "/opt/cni/bin"),
            "/etc/cni/other",
            ("portmap", {"type": "tuning", "sysctl": {"net.core.somaxconn": "500"}}),
            120.0,
        ),
        MetricsConfig("[::]:9753"),
        "/tmp/t.toml",
    )


@pytest.mark.parametrize(
    ("said", "seconds"),
    [("60s", 60.0), ("500ms", 0.5), ("2m", 120.0), ("2min", 120.0), ("1h", 3600.0), ("1.5 s", 1.5)],
)
def test_times(said: str, seconds: float) -> None:
    assert parse(f'dhcp.timeout = "{said}"').dhcp.timeout == seconds


WRONG = {
    "host.uplink": ["7", "true", '""', '"a/b"', '"a b"', '"a:b"', '"."', '".."', '"sixteen-letters0"', "[]"],
    "host.bridge": ["7", "false", '""', '"ääääääää"', '"a\\u0000b"', '"tab\\t"', '"br%d"', '{ name = "x" }'],
    "host.verify": [
        *(
            '"gateway"',
            '["router"]',
            "[7]",
            '["tcp:lan.example:80"]',
            '["tcp:192.0.2.5"]',
            '["tcp:192.0.2.5:0"]',
        ),
        *('["tcp:192.0.2.5:65536"]', '["tcp:192.0.2.5:x"]', '["192.0.2.5:80"]', '["gateway", ""]', "true"),
    ],
    "host.address": ['"static"', '"192.0.2.10/24"', '["192.0.2.10"]', '["x/24"]', "[7]", "true", "7"],
    "host.gateway": ['"192.0.2.1"', '["x"]', "[7]", '["192.0.2.1/24"]', "7"],
    "host.dns": ['"192.0.2.1"', '["lan.example"]', "7"],
    "host.mtu": ['"1500"', "68", "true"],
    "host.confirm_timeout": ["90", '"0s"', '"x"', "[]"],
    "host.verify_timeout": ["10", "10.0", '"10"', '"0s"', '"-1s"', '"1 day"', '"s"', "true"],
    "dhcp.timeout": ["60", '"sixty"', '"1e3s"', '"0.0ms"', "[]"],
    "dhcp.client_id": ['"duid"', "7", "true", '["pod"]', '""'],
    "dhcp.hostname": ['"true"', "1", "0", "[]"],
    "dhcp.vendor_class": ["7", "true", "[]"],
    "dhcp.request": ["66", '"66"', "[0]", "[255]", "[true]", '["66"]', "[66.0]"],
    "dhcp.rapid_commit": ['"true"', "1", "[]"],
    "dhcp.conflict_detection": ["true", '"on"', "1"],
    "dhcp.discover_rate": ["0", "true", '"50"', "1.5", "10001"],
    "dhcp.servers": ['"all"', "[]", '["x"]', "[7]", "true", '["::1"]'],
    "pods.mac": ['"02:00:00:00:00:01"', "1", "[]", '"Stable"'],
    "pods.service_cidrs": ['"10.96.0.0/12"', '["auto"]', '["10.96.0.1/12"]', "[7]", '[["10.0.0.0/8"]]', "7"],
    "pods.default_route": ['"yes"', "1", "1.0"],
    "pods.mtu": ['"1500"', "1500.0", "true", "false", "68", "575", "65536", "-1"],
    "pods.ipv6": ["true", '"dhcp"', "6"],
    "pods.lost_lease": ["true", '"stay"', "1"],
    "pods.antispoof": ['"true"', "1", "[]"],
    "cni.name": ['""', '"a/b"', '"-x"', '".x"', "7", '"a b"', '"a\\n"'],
    "cni.bin_dirs": ['"/opt/cni/bin"', '["opt"]', "[7]", '["/opt/cni/bin", "x"]', '["/a\\u0000b"]', "true"],
    "metrics.listen": [
        "9753",
        '"9753"',
        '":9753"',
        '"lan.example:80"',
        '"192.0.2.1:0"',
        '"192.0.2.1"',
        "true",
    ],
    "cni.chain": [
        '"portmap"',
        "[7]",
        '["../x"]',
        "[{}]",
        '["cni-terway"]',
        '[{ type = "x", at = 2020-01-01 }]',
    ],
    "cni.add_timeout": ["90", '"0s"', '"5m"'],
    "cni.conf_dir": ['"etc/cni"', '""', "7", '["/etc/cni/net.d"]', '"/etc/\\u0000"'],
}


def test_a_gateway_is_in_the_network_of_an_address() -> None:
    host = parse(
        '[host]\naddress = ["192.0.2.10/24", "2001:db8::10/64"]\ngateway = ["192.0.2.1", "fe80::1"]'
    ).host
    assert host.address == (IPv4Interface("192.0.2.10/24"), IPv6Interface("2001:db8::10/64"))
    assert host.gateway == (IPv4Address("192.0.2.1"), IPv6Address("fe80::1"))
    for address in ('"keep"', '"dhcp"', "[]", '["198.51.100.10/24"]'):
        error = refused(f'[host]\naddress = {address}\ngateway = ["192.0.2.1"]')
        assert "host.gateway 192.0.2.1 is in the network of none of host.address" in error.message


@pytest.mark.parametrize(("key", "value"), [(key, value) for key in WRONG for value in WRONG[key]])
def test_a_wrong_value_is_told_with_its_key(key: str, value: str) -> None:
    section, name = key.split(".")
    error = refused(f"[{section}]\n{name} = {value}\n")
    assert error.message.startswith(f"/etc/terway.toml: {key} = ")
    assert "is wrong: expected " in error.message
    assert f"{name} under [{section}]" in error.hint


def test_every_key_is_tried_with_wrong_values() -> None:
    assert {f"{section}.{key}" for section, names in keys().items() for key in names} == set(WRONG)


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("[host]\nuplnk = 1", "unknown host.uplnk", 'did you mean "uplink"?'),
        ("[dhcp]\nclientid = 1", "unknown dhcp.clientid", 'did you mean "client_id"?'),
        ("[hosts]\n", "unknown [hosts]", 'did you mean "host"?'),
        ("[cni]\nzzzz = 1", "unknown cni.zzzz", "known here: name, bin_dirs, conf_dir, chain, add_timeout"),
        ("[xylophone]\n", "unknown [xylophone]", "known here: host, dhcp, pods, cni"),
        ("[host.uplink]\nname = 1", "host.uplink = {'name': 1} is wrong", "mend uplink under [host]"),
    ],
)
def test_an_unknown_name_is_told_with_the_nearest(text: str, message: str, hint: str) -> None:
    error = refused(text)
    assert message in error.message
    assert hint in error.hint


@pytest.mark.parametrize("text", ["host = 1", 'host = "eth0"', "[[host]]\nuplink = 'eth0'", "host = []"])
def test_a_section_that_is_none(text: str) -> None:
    assert refused(text).message == "/etc/terway.toml: host must be a section"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[host\n", "line 1"),
        ("[host]\n\nuplink = eth0\n", "line 3"),
        ('[host]\nuplink = "a"\nuplink = "b"\n', "line 3"),
        ("[host]\n[host]\n", "line 2"),
        ('{"host": {}}', "line 1"),
        pytest.param(f"host = {'[' * 5000}", "recursion", id="deep"),
        pytest.param(f"pods.mtu = {'1' * 5000}", "digits", id="digits"),
    ],
)
def test_what_is_not_toml_is_told_with_its_line(text: str, line: str) -> None:
    error = refused(text)
    assert error.message.startswith("/etc/terway.toml is not TOML: ")
    assert line in error.message


@pytest.mark.parametrize("text", ["", OTHERS])
def test_what_is_shown_is_what_could_be_written(text: str) -> None:
    config = parse(text)
    shown = values(config)
    assert {section: list(section_values) for section, section_values in shown.items()} == keys()
    lines = (
        f"{section}.{key} = {toml(shown[section][key])}\n" for section in shown for key in shown[section]
    )
    assert parse("".join(lines)) == config


def asked(text: str) -> Config | ConfigError:
    try:
        return parse(text)
    except ConfigError as error:
        return error


@given(st.text())  # type: ignore[misc]
def test_no_text_breaks_it(text: str) -> None:
    asked(text)


VALUES = st.recursive(
    st.booleans() | st.integers() | st.floats(allow_nan=False) | st.sampled_from(['""', '"x"', '"auto"']),
    lambda inner: st.lists(inner, max_size=2),
    max_leaves=3,
)


@given(st.sampled_from(sorted(WRONG)), VALUES)  # type: ignore[misc]
def test_no_value_breaks_it(key: str, value: object) -> None:
    found = asked(f"{key} = {str(value).lower().replace(chr(39), '')}")
    assert key in found.message if isinstance(found, ConfigError) else isinstance(found, Config)
