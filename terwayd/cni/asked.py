"""What a runtime asks for beside an address: capabilities, annotations, arguments, the network's own keys.

Where several say the same, the one that is nearer to this one interface wins: runtimeConfig (CNI
conventions, "Dynamic Plugin specific fields"), the pod's annotations, `args.cni`, CNI_ARGS.  Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import IPv4Interface, IPv4Network, ip_interface
from typing import Any

from terwayd.cni import protocol
from terwayd.cni.protocol import Call, Dns
from terwayd.errors import CniError
from terwayd.pods.identity import Wish, name_of

ANNOTATIONS = "io.kubernetes.cri.pod-annotations"
CAPABILITIES = ("mac", "ips", "dns", ANNOTATIONS)
PREFIX = "terway.io/"
_POD_INTERFACE = "eth0"  # a pod's annotations speak of one interface

_BAD_ENVIRONMENT, _UNSUPPORTED, _INVALID = 4, 2, 7


def wish(call: Call) -> Wish:
    """All that `call` asks for; CniError, naming the key, for what cannot be had."""
    address = _address(call)
    static = call.config.get("static", False)
    if not isinstance(static, bool):
        raise _wrong("static", static, "true or false")
    if static and address is None:
        raise CniError(_INVALID, "static: no address is asked for", hint="pass it as the capability ips")
    return Wish(
        namespace=call.args.get("K8S_POD_NAMESPACE", ""),
        name=call.args.get("K8S_POD_NAME", ""),
        mac=_mac(call),
        address=address,
        static=static,
        hostname=_annotation(call, "hostname") or call.args.get("NERDCTL_CNI_DHCP_HOSTNAME", ""),
        service_cidrs=_service_cidrs(call.config),
        antispoof=_antispoof(call),
    )


def who(environment: Mapping[str, str]) -> str:
    """The pod that a call is about, for the journal; "" for none.  Never fails, as a call may be all wrong."""
    args = protocol.arguments(environment)
    container = environment.get("CNI_CONTAINERID", "").encode(errors="replace").decode()
    return name_of(args.get("K8S_POD_NAMESPACE", ""), args.get("K8S_POD_NAME", ""), container)


def dns(call: Call, leased: Dns) -> Dns:
    """What the container shall resolve by: the runtime's, the network's, or the lease's."""
    given = _object(call.config, "runtimeConfig").get("dns")
    if isinstance(given, dict):
        words = {str(key).lower(): value for key, value in given.items()}  # containerd writes "Servers"
        asked = Dns(
            _texts(words.get("servers")), "", _texts(words.get("searches")), _texts(words.get("options"))
        )
        if asked != Dns():
            return asked
    given = _object(call.config, "dns")
    domain = given.get("domain")
    asked = Dns(
        _texts(given.get("nameservers")),
        domain if isinstance(domain, str) else "",
        _texts(given.get("search")),
        _texts(given.get("options")),
    )
    return asked if asked != Dns() else leased


def _mac(call: Call) -> str:
    for key, text, code in (
        ("runtimeConfig.mac", _object(call.config, "runtimeConfig").get("mac"), _INVALID),
        (f"{PREFIX}mac", _annotation(call, "mac"), _INVALID),
        ("args.cni.mac", _cni_args(call).get("mac"), _INVALID),
        ("CNI_ARGS: MAC", call.args.get("MAC"), _BAD_ENVIRONMENT),
    ):
        if text is None or text == "":
            continue
        if not isinstance(text, str) or not re.fullmatch(r"([0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}", text):
            raise _wrong(key, text, "a MAC address such as 02:00:00:00:00:01", code)
        if int(text[:2], 16) & 1 or int(text.replace(":", ""), 16) == 0:
            raise _wrong(key, text, "the MAC address of one station", code)
        return text.lower()
    return ""


def _address(call: Call) -> tuple[IPv4Interface, bool] | None:
    """The address asked for, and whether its prefix length is too."""
    for key, given, code in (
        ("runtimeConfig.ips", _object(call.config, "runtimeConfig").get("ips"), _INVALID),
        (f"{PREFIX}ip", _annotation(call, "ip"), _INVALID),
        ("args.cni.ips", _cni_args(call).get("ips"), _INVALID),
        ("CNI_ARGS: IP", call.args.get("IP"), _BAD_ENVIRONMENT),
    ):
        texts = [given] if isinstance(given, str) and given else given
        if texts is None or texts in ("", []):
            continue
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise _wrong(key, given, "addresses such as 192.0.2.7 or 192.0.2.7/24", code)
        if len(texts) > 1:
            raise CniError(_UNSUPPORTED, f"{key}={given!r} is not supported: one IPv4 address is")
        try:
            interface = ip_interface(texts[0])
        except ValueError:
            raise _wrong(key, texts[0], "an address such as 192.0.2.7 or 192.0.2.7/24", code) from None
        if not isinstance(interface, IPv4Interface):
            raise CniError(_UNSUPPORTED, f"{key}={texts[0]!r} is not supported: IPv4 is")
        if interface.ip.is_multicast or interface.ip.is_unspecified or interface.ip.is_loopback:
            raise _wrong(key, texts[0], "an address that a host can have", code)
        return interface, "/" in texts[0]
    return None


def _service_cidrs(config: Mapping[str, Any]) -> tuple[IPv4Network, ...]:
    """The key of the original cni-terway, which wrote it into its own configuration."""
    text = config.get("serviceIPCIDR") or ""
    try:
        if not isinstance(text, str):
            raise ValueError
        return (IPv4Network(text),) if text else ()
    except ValueError:
        raise _wrong("serviceIPCIDR", text, "a network such as 10.96.0.0/12") from None


def _antispoof(call: Call) -> bool:
    """Whether what the interface sends is held to its own addresses: unless somebody says no."""
    for key, given, code in (
        ("antispoof", call.config.get("antispoof"), _INVALID),
        (f"{PREFIX}antispoof", _annotation(call, "antispoof"), _INVALID),
        ("args.cni.antispoof", _cni_args(call).get("antispoof"), _INVALID),
        ("CNI_ARGS: ANTISPOOF", call.args.get("ANTISPOOF"), _BAD_ENVIRONMENT),
    ):
        if given is False or given == "false":
            return False
        if given is not None and given is not True and given not in ("", "true"):
            raise _wrong(key, given, "true or false", code)
    return True


def _annotation(call: Call, key: str) -> str:
    """A pod's annotation: its host name is that of the pod, its MAC and IP are those of its first interface."""
    if key != "hostname" and call.ifname != _POD_INTERFACE:
        return ""
    value = _object(_object(call.config, "runtimeConfig"), ANNOTATIONS).get(PREFIX + key)
    return value if isinstance(value, str) else ""


def _cni_args(call: Call) -> Mapping[str, Any]:
    return _object(_object(call.config, "args"), "cni")


def _object(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = config.get(key)
    return value if isinstance(value, dict) else {}


def _texts(given: Any) -> tuple[str, ...]:
    return tuple(item for item in given if isinstance(item, str)) if isinstance(given, list) else ()


def _wrong(key: str, value: Any, expected: str, code: int = _INVALID) -> CniError:
    return CniError(code, f"{key}={value!r} is not {expected}")
