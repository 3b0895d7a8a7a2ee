"""The pods' ports of the bridge: the veth of each, and what the firewall lets through it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address

from terwayd.config import Config, Network
from terwayd.dhcp.lease import Lease
from terwayd.kernel.netlink import Netlink
from terwayd.kernel.reaper import Leaving, Reaper, is_gone_soon
from terwayd.kernel.worker import Worker
from terwayd.pods import veth
from terwayd.pods.attached import Lan
from terwayd.pods.firewall import Firewall
from terwayd.pods.identity import Attachment
from terwayd.pods.routes import pod_routes
from terwayd.pods.sending import Port


class Ports:
    """Makes them and takes them out."""

    def __init__(
        self,
        config: Config,
        *,
        worker: Worker,
        firewall: Firewall,
        lan: Lan,
        service_cidrs: Callable[[], tuple[Network, ...]],
    ) -> None:
        self.config = config
        self.lan = lan
        self._worker = worker
        self._firewall = firewall
        self._service_cidrs = service_cidrs
        self._reaper = Reaper()

    def inside_of(self, known: Attachment, lease: Lease) -> veth.Inside:
        """What the pod's interface shall have with `lease`."""
        mtu = self.mtu(lease)
        routes = pod_routes(
            lease,
            self.lan.node,
            service_cidrs=known.service_cidrs or self._service_cidrs(),
            default_route=self.config.pods.default_route,
        )
        return veth.Inside(known.ifname, lease.address, routes, mtu if mtu != self.lan.bridge.mtu else 0)

    def mtu(self, lease: Lease) -> int:
        mtu = self.config.pods.mtu or self.lan.bridge.mtu
        return min(mtu, lease.mtu or mtu)

    def port(self, known: Attachment, *addresses: IPv4Address) -> Port:
        """What a pod that has `addresses` may send."""
        ipv6 = self.config.pods.ipv6 == "slaac"
        return Port(
            known.host_ifname,
            known.mac,
            known.container_id,
            addresses,
            ipv6=ipv6,
            guarded=self._guarded(known),
        )

    def admit(self, known: Attachment, *addresses: IPv4Address) -> None:
        self._firewall.admit(self.port(known, *addresses))

    def plug(self, netlink: Netlink, known: Attachment, descriptor: int) -> veth.Opened:
        if known.service_cidrs:
            self._firewall.serve()
        mtu = self.lan.bridge.mtu
        return veth.plug(netlink, known, descriptor, mtu=mtu, ipv6=self.config.pods.ipv6 == "slaac")

    def join(self, netlink: Netlink, known: Attachment, *addresses: IPv4Address) -> None:
        """A port of the bridge, up, and held to `addresses` from the start."""
        self.admit(known, *addresses)
        self.rejoin(netlink, known)

    def rejoin(self, netlink: Netlink, known: Attachment) -> None:
        """The same for one that was admitted before: the bridge may be another one now."""
        bridge, hairpin = self.lan.bridge.index, self._firewall.services
        veth.join(netlink, known, bridge, hairpin=hairpin, guarded=self._guarded(known))

    def _guarded(self, known: Attachment) -> bool:
        return known.antispoof and self.config.pods.antispoof

    def configure(
        self, netlink: Netlink, known: Attachment, opened: veth.Opened, inside: veth.Inside
    ) -> None:
        self.join(netlink, known, inside.address.ip)
        veth.configure(netlink, opened, inside)

    def unplug(self, known: Attachment) -> Awaitable[None]:
        """Take it out: that begins with this call, and has ended when what it returns was awaited."""
        return self._see_off(known, self._reaper.delete(known.host_ifname))

    async def _see_off(self, known: Attachment, leaving: Leaving) -> None:
        try:
            if leaving.alone and await self._worker.call(self._dismiss_soon, known.host_ifname):
                return
            await leaving.gone()
        finally:
            self._reaper.forget()
        await self._worker.call(lambda _: self._firewall.dismiss(known.host_ifname))

    def _dismiss_soon(self, _: Netlink, name: str) -> bool:
        if left := is_gone_soon(name):
            self._firewall.dismiss(name)
        return left

    async def serve(self) -> None:
        """From now on there are Services."""
        await self._worker.call(lambda _: self._firewall.serve())

    def close(self) -> None:
        """Wait until the kernel has finished with what was taken out."""
        self._reaper.close()
