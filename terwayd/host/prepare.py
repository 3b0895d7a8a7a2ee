"""What a takeover of this host would do, as it is now; or what speaks against it."""

from __future__ import annotations

from dataclasses import replace

from terwayd.config import HostConfig
from terwayd.errors import HostError
from terwayd.host import addressing, dependants, find_dependants, find_managers
from terwayd.host.managers import hold
from terwayd.host.plan import COPIED_SYSCTLS, NIC_SYSCTLS, Plan, plan
from terwayd.host.uplink import find_uplink
from terwayd.kernel.sysctl import read_sysctls
from terwayd.model import Host


def prepare(host: Host, settings: HostConfig) -> Plan:
    """The plan for `host`, whose NIC and managers are looked at too.  HostError says why it must not be done."""
    nic = find_uplink(host, settings.uplink, settings.bridge, leased=True)
    found = find_managers.find(nic)
    if found.busy:
        raise HostError(f"{found.busy} has not finished with {nic.name} yet", hint="terwayd waits for it")
    if found.lease is None:
        find_uplink(host, nic.name, settings.bridge)
    addressing.refuse(settings, host, nic, found)
    dependants.ready(host, nic, addressed=settings.address == "keep")
    dependants.refuse_root(find_dependants.root(), host, nic)
    sysctls = read_sysctls((*COPIED_SYSCTLS, *NIC_SYSCTLS), nic.name, "default", "all")
    host = replace(host, sysctls=sysctls)
    held = hold(found, nic.name, settings.bridge, tuple(map(str, settings.dns)))
    given = addressing.given(settings, host, nic)
    wanted = plan(host, nic, settings.bridge, held, mtu=settings.mtu, given=given)
    told = [*wanted.warnings, *find_dependants.warnings(nic.name)]
    if settings.dns and not found.resolved:
        told.append("host.dns: systemd-resolved does not run here, so /etc/resolv.conf stays as it is")
    return replace(wanted, warnings=tuple(told))
