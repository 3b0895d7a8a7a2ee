"""The methods of io.terway: from JSON values to the node and back.  io.terway.varlink describes them."""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from terwayd import __version__, metrics
from terwayd.api.findings import findings
from terwayd.api.replies import POD_KEYS, host_dict, plan_dict, pod_dict, standing_dict
from terwayd.api.varlink import VarlinkError, invalid
from terwayd.clock import boottime
from terwayd.cni import asked, protocol, verbs
from terwayd.condition import Condition
from terwayd.config import Reload, values
from terwayd.dhcp.engine import Engine
from terwayd.dhcp.lease import Lease
from terwayd.dhcp.table import State
from terwayd.errors import DhcpError, TerwayError
from terwayd.events import REFUSED, about
from terwayd.node import Node
from terwayd.pods.identity import Attachment
from terwayd.pods.static import is_static

log = logging.getLogger(__name__)

INTERFACE = "io.terway"
SERVICE = "org.varlink.service"
_RENEW = 10.0  # seconds that a renewal by hand waits for the server
_DESCRIPTION = Path(__file__).with_name("io.terway.varlink")

Method = Callable[[dict[str, Any], list[int]], Awaitable[dict[str, Any]]]


class Methods:
    """Answers calls for one node."""

    def __init__(self, node: Node, reload: Callable[[], Awaitable[Reload]]) -> None:
        self._node = node
        self._reload_file = reload
        self._methods: dict[str, Method] = {
            f"{INTERFACE}.Cni": self._cni,
            f"{INTERFACE}.Status": self._status,
            f"{INTERFACE}.Leases": self._leases,
            f"{INTERFACE}.Metrics": self._metrics,
            f"{INTERFACE}.RenewLease": self._renew_lease,
            f"{INTERFACE}.ReleaseLease": self._release_lease,
            f"{INTERFACE}.Config": self._config,
            f"{INTERFACE}.InstallCni": self._install_cni,
            f"{INTERFACE}.UninstallCni": self._uninstall_cni,
            f"{INTERFACE}.Survey": self._survey,
            f"{INTERFACE}.Plan": self._plan,
            f"{INTERFACE}.Setup": self._setup,
            f"{INTERFACE}.Teardown": self._teardown,
            f"{INTERFACE}.Reload": self._reload,
            f"{INTERFACE}.Confirm": self._confirm,
            f"{INTERFACE}.Rollback": self._rollback,
            f"{SERVICE}.GetInfo": self._info,
            f"{SERVICE}.GetInterfaceDescription": self._description,
        }

    async def handle(self, method: str, parameters: dict[str, Any], descriptors: list[int]) -> dict[str, Any]:
        """The parameters of the reply; VarlinkError for every failure."""
        if method not in self._methods:
            raise VarlinkError(f"{SERVICE}.MethodNotFound", {"method": method})
        try:
            return await self._methods[method](parameters, descriptors)
        except TerwayError as error:
            told = {"message": error.message, "hint": error.hint, "kind": type(error).__name__}
            raise VarlinkError(f"{INTERFACE}.Failed", told) from error
        except VarlinkError:
            raise
        except Exception as error:
            log.exception("%s failed", method)
            told = {"message": f"{method}: {error!r}", "hint": "journalctl -u terwayd", "kind": "Exception"}
            raise VarlinkError(f"{INTERFACE}.Failed", told) from error

    async def _cni(self, parameters: dict[str, Any], descriptors: list[int]) -> dict[str, Any]:
        environment, stdin = parameters.get("environment"), parameters.get("stdin")
        if not isinstance(environment, dict) or not all(isinstance(v, str) for v in environment.values()):
            raise invalid("environment")
        if not isinstance(stdin, str):
            raise invalid("stdin")
        code, began = 999, boottime()
        try:
            result = await verbs.answer(
                self._node, environment, stdin, descriptors[0] if descriptors else None
            )
            code = 0
            return result
        except TerwayError as error:
            code = error.cni_code
            verb, pod = environment.get("CNI_COMMAND", ""), asked.who(environment)
            log.warning("CNI %s%s: %s", verb, f" of {pod}" if pod else "", error, extra=about(REFUSED, pod))
            told = protocol.error(error, protocol.version_of(stdin))
            raise VarlinkError(f"{INTERFACE}.CniFailed", told) from None
        finally:
            self._node.metrics.cni(environment.get("CNI_COMMAND", ""), code, boottime() - began)

    async def _status(self, _parameters: dict[str, Any], _descriptors: list[int]) -> dict[str, Any]:
        node, health = self._node, self._node.health
        host, drift = await node.observe()
        state = health.condition
        found = findings(node, drift)
        dropped = await node.worker.call(lambda _: node.firewall.dropped())
        pods = [
            {**{key: pod[key] for key in POD_KEYS}, "dropped": dropped.get(pod["host_ifname"])}
            for pod in self._pods()
        ]
        if state is Condition.READY and any(finding["severity"] == "error" for finding in found):
            state = Condition.DEGRADED
        reason = health.reason or (found[0]["message"] if found else "")
        return {
            "version": __version__,
            "state": state.value,
            "reason": reason,
            "since": int(health.since),
            "host": host_dict(host, node.bridge),
            "pods": pods,
            "findings": found,
            "rules": [{"where": where, "what": what} for where, what in node.firewall.rules()],
            "config": node.config.path,
        }

    async def _metrics(self, _parameters: dict[str, Any], _descriptors: list[int]) -> dict[str, Any]:
        return {"text": self.metrics_page()}

    async def _survey(self, parameters: dict[str, Any], _descriptors: list[int]) -> dict[str, Any]:
        mac, flags = parameters.get("mac"), []
        for name in ("broadcast", "first"):
            flags.append(parameters.get(name, False))
            if not isinstance(flags[-1], bool):
                raise invalid(name)
        try:
            source = bytes.fromhex(mac.replace(":", "")) if mac is not None else None
        except (ValueError, AttributeError):
            source = b""
        if source is not None and len(source) != 6:
            raise invalid("mac")
        offers = await self._node.survey(source, broadcast=flags[0], first=flags[1])
        return {
            "offers": [
                {
                    "server": str(offer.server),
                    "server_mac": offer.server_mac,
                    "address": str(offer.address),
                    "after": offer.after,
                }
                for offer in offers
            ]
        }

    def metrics_page(self) -> str:
        """What Prometheus reads.  The host is not looked at for it: drift is mended, and counted, anyway."""
        node, leases = self._node, self._pods()
        left = [pod["expires_in"] for pod in leases if pod["expires_in"] is not None]
        facts = metrics.Facts(
            version=__version__,
            state=node.health.condition.value,
            leases={state.value: 0 for state in State} | Counter(pod["state"] for pod in leases),
            process=_process(),
            pods=len(leases),
            next_expiry=time.time() + min(left) if left else None,
            confirm_seconds=node.probation.left,
            findings=Counter((found["code"], found["severity"]) for found in findings(node, ())),
        )
        return metrics.render(node.metrics, facts)

    async def _leases(self, _parameters: dict[str, Any], _descriptors: list[int]) -> dict[str, Any]:
        return {"leases": self._pods()}

    def _pods(self) -> list[dict[str, Any]]:
        node = self._node
        if node.known_pods is None or node.engine is None:
            return []
        shown = []
        for known in node.known_pods:
            state = node.engine.state(known.key)
            shown.append(pod_dict(known, node.engine.lease(known.key), state.value if state else "stopped"))
        return sorted(shown, key=lambda pod: (pod["namespace"], pod["name"], pod["ifname"]))

    async def _renew_lease(self, parameters: dict[str, Any], _descriptors: list[int]) -> dict[str, Any]:
        known, engine = self._attached(parameters)
        patience = min(_RENEW, self._node.config.dhcp.timeout)
        return await self._changed(known, engine, engine.renew(known.key, timeout=patience))

    async def _release_lease(self, parameters: dict[str, Any], _descriptors: list[int]) -> dict[str, Any]:
        known, engine = self._attached(parameters)
        patience = self._node.config.dhcp.timeout
        return await self._changed(known, engine, engine.replace(known.key, timeout=patience))

    def _attached(self, parameters: dict[str, Any]) -> tuple[Attachment, Engine]:
        container_id, ifname = parameters.get("container_id"), parameters.get("ifname")
        for known in self._node.known_pods or ():
            if (known.container_id, known.ifname) == (container_id, ifname):
                engine = self._node.engine
                assert engine is not None
                if (lease := engine.lease(known.key)) is not None and is_static(lease):
                    raise TerwayError(f"{known} has {lease.address.ip} without DHCP: there is no lease of it")
                return known, engine
        raise TerwayError(f"{ifname} of container {container_id} is not attached here", hint="terwayctl pods")

    @staticmethod
    async def _changed(known: Attachment, engine: Engine, change: Awaitable[Lease]) -> dict[str, Any]:
        """The lease after `change`; an error names the pod."""
        try:
            lease = await change
        except DhcpError as error:
            raise DhcpError(f"{known}: {error.message}", hint=error.hint) from None
        state = engine.state(known.key)
        return {"lease": pod_dict(known, lease, state.value if state else "stopped")}

    async def _config(self, _parameters: dict[str, Any], _descriptors: list[int]) -> dict[str, Any]:
        return {"path": self._node.config.path, "config": values(self._node.config)}

    async def _install_cni(self, _parameters: dict[str, Any], _descriptors: list[int]) -> dict[str, Any]:
        return {"files": self._node.install_cni()}

    async def _uninstall_cni(self, parameters: dict[str, Any], _descriptors: list[int]) -> dict[str, Any]:
        force = parameters.get("force", False)
        if not isinstance(force, bool):
            raise invalid("force")
        return {"files": self._node.uninstall_cni(force=force)}

    async def _plan(self, parameters: dict[str, Any], _descriptors: list[int]) -> dict[str, Any]:
        takeover = self._node.takeover
        action = parameters.get("action", "setup")
        if action not in ("setup", "teardown"):
            raise invalid("action")
        work = takeover.plan_setup if action == "setup" else takeover.plan_teardown
        return plan_dict(await self._node.worker.call(work))

    async def _setup(self, parameters: dict[str, Any], _descriptors: list[int]) -> dict[str, Any]:
        confirm, seconds = parameters.get("confirm", False), parameters.get("seconds")
        if not isinstance(confirm, bool):
            raise invalid("confirm")
        if seconds is not None and (type(seconds) not in {int, float} or not 0 < seconds <= 86400):
            raise invalid("seconds")
        within = float(seconds or self._node.config.host.confirm_timeout) if confirm else None
        done = standing_dict(await self._node.bring_up(confirm_within=within))
        return {**done, "confirm_within": self._node.probation.left}

    async def _reload(self, _parameters: dict[str, Any], _descriptors: list[int]) -> dict[str, Any]:
        done = await self._reload_file()
        return {"applied": list(done.applied), "waiting": list(done.waiting)}

    async def _confirm(self, _parameters: dict[str, Any], _descriptors: list[int]) -> dict[str, Any]:
        self._node.probation.confirm()
        return {}

    async def _rollback(self, _parameters: dict[str, Any], _descriptors: list[int]) -> dict[str, Any]:
        return standing_dict(await self._node.roll_back("rolled back by terwayctl"))

    async def _teardown(self, parameters: dict[str, Any], _descriptors: list[int]) -> dict[str, Any]:
        force = parameters.get("force", False)
        if not isinstance(force, bool):
            raise invalid("force")
        return standing_dict(await self._node.take_down(force=force))

    async def _info(self, _parameters: dict[str, Any], _descriptors: list[int]) -> dict[str, Any]:
        return {
            "vendor": "terwayd",
            "product": "terwayd",
            "version": __version__,
            "url": "https://varlink.org",
            "interfaces": [SERVICE, INTERFACE],
        }

    async def _description(self, parameters: dict[str, Any], _descriptors: list[int]) -> dict[str, Any]:
        if parameters.get("interface") != INTERFACE:
            raise VarlinkError(f"{SERVICE}.InterfaceNotFound", {"interface": parameters.get("interface")})
        return {"description": _DESCRIPTION.read_text()}


def _process() -> metrics.Process:
    words = Path("/proc/self/stat").read_text().rpartition(")")[2].split()  # from field 3 of proc(5) on
    ticks, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
    return metrics.Process(
        started=time.time() - boottime() + int(words[19]) / ticks,
        cpu_seconds=(int(words[11]) + int(words[12])) / ticks,
        resident_bytes=int(words[21]) * page,
        descriptors=sum(1 for _ in Path("/proc/self/fd").iterdir()),
    )
