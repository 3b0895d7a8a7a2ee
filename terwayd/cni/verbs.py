"""What each CNI verb does: from a call to the pods, and from what became of it to a result."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, Protocol

from terwayd.cni import asked, protocol
from terwayd.cni.protocol import Call
from terwayd.errors import CniError, HostError, TerwayError
from terwayd.kernel import netns
from terwayd.pods.attach import Attachments
from terwayd.pods.attached import Attached

log = logging.getLogger(__name__)


class Node(Protocol):
    """What the verbs need of the node: its pods, or the reason why it takes none."""

    @property
    def bridge(self) -> str: ...

    @property
    def add_timeout(self) -> float: ...

    async def tried(self) -> None:
        """Return when the node has been brought up, or could not be: a call may come while it starts."""

    @property
    def down(self) -> bool: ...

    @property
    def known_pods(self) -> Attachments | None: ...

    def pods(self) -> Attachments:
        """Raises HostError while the node takes no pods."""


async def answer(
    node: Node, environment: Mapping[str, str], stdin: str, descriptor: int | None
) -> dict[str, Any]:
    """The result of one call; raises TerwayError, whose `cni_code` the runtime gets."""
    call = protocol.parse(environment, stdin)
    log.debug("%s %s %s", call.command, call.container_id, call.ifname)
    if call.command == "VERSION":
        return protocol.versions(call.version)
    if call.command == "ADD":
        namespace = _namespace(call, descriptor)
        try:
            async with asyncio.timeout(node.add_timeout):
                await node.tried()
                return await _add(node, call, namespace)
        except TimeoutError:
            raise CniError(11, f"ADD took longer than {node.add_timeout:.0f} s and was undone") from None
    await node.tried()
    match call.command:
        case "DEL":
            if not node.down:  # else there is nothing left to take out, and the runtime shall not wait for it
                await _known(node).delete(call.key)
        case "CHECK":
            await _check(_pods(node), call, _namespace(call, descriptor))
        case "GC":
            await _collect(node, call)
        case "STATUS":
            _status(node)
    return {}


def _namespace(call: Call, descriptor: int | None) -> int:
    if descriptor is None:
        raise CniError(4, f"CNI_NETNS={call.netns} could not be opened", hint="is the container still there?")
    netns.require(descriptor, call.netns)
    return descriptor


async def _add(node: Node, call: Call, descriptor: int) -> dict[str, Any]:
    wish = asked.wish(call)
    protocol.previous(call)  # what is no result is told before anything is made
    attached = await _pods(node).add(call.key, descriptor, wish, netns_path=call.netns)
    return protocol.behind(protocol.result(_result(attached, node.bridge, call), call.version), call)


def _pods(node: Node) -> Attachments:
    """The pods; a node that takes none now may do so later (code 11)."""
    try:
        return node.pods()
    except HostError as error:
        raise CniError(11, error.message, hint=error.hint) from None


def _known(node: Node) -> Attachments:
    """The pods for a verb that takes them out: a node that takes none at the moment has those it took."""
    return node.known_pods if node.known_pods is not None else _pods(node)


def _status(node: Node) -> None:
    """Code 50: no ADD can be served; 51: and the pods that are here may have lost the LAN (section 2, "STATUS")."""
    try:
        pods = node.pods()
    except HostError as error:
        code = 51 if node.known_pods is not None and len(node.known_pods) else 50
        raise CniError(code, error.message, hint=error.hint) from None
    if without := pods.upkeep.without_server():
        raise CniError(51, f"no DHCP server answers, and the leases of {', '.join(without)} are over")


async def _check(pods: Attachments, call: Call, descriptor: int) -> None:
    """From memory, but for what only the pod's namespace can tell."""
    found = pods.find(call.key)
    if found is None:
        raise CniError(
            3,
            f"container {call.container_id} has no {call.ifname} from network {call.network}",
            hint="terwayctl leases",
        )
    if (trouble := pods.upkeep.trouble(call.key)) is not None:
        raise CniError(100, trouble.message, hint=trouble.hint)
    known, lease = found
    before = protocol.previous(call)
    if before is not None and lease is not None and str(lease.address) not in before.addresses:
        told = ", ".join(sorted(before.addresses)) or "no address"
        raise CniError(100, f"{known} has {lease.address}, prevResult tells of {told}", hint="delete the pod")
    if lost := await pods.check(call.key, descriptor, before.routes if before is not None else None):
        raise CniError(100, f"{known}: {'; '.join(lost)}", hint="delete the pod: a new one has it all")


async def _collect(node: Node, call: Call) -> None:
    """Take out every attachment of the network that the runtime does not name as valid."""
    valid = protocol.valid_attachments(call)
    if valid is None:
        return  # not an empty list: nothing was said
    pods = _known(node)
    stale = [known.key for known in pods if known.network == call.network and known.key[1:] not in valid]
    failures = []
    for key in stale:
        try:
            await pods.delete(key)
        except TerwayError as error:
            failures.append(str(error))
    if failures:
        raise CniError(999, f"{len(failures)} of {len(stale)} stale attachments stay: {'; '.join(failures)}")


def _result(attached: Attached, bridge: str, call: Call) -> protocol.Result:
    known, lease = attached.attachment, attached.lease
    gateway = next((str(r.gateway) for r in attached.routes if r.gateway and r.dst.prefixlen == 0), "")
    return protocol.Result(
        interfaces=(
            protocol.Interface(known.ifname, known.mac, known.netns, attached.mtu),
            protocol.Interface(known.host_ifname, attached.host_mac),
            protocol.Interface(bridge, attached.bridge_mac),
        ),
        ips=(protocol.Ip(str(lease.address), gateway, interface=0),),
        routes=tuple(
            protocol.RouteTo(str(r.dst), str(r.gateway) if r.gateway else "") for r in attached.routes
        ),
        dns=asked.dns(call, protocol.Dns(tuple(str(s) for s in lease.dns), lease.domain, lease.search)),
    )
