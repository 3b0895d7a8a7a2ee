"""A port of the bridge for terwayd itself, so that DHCP servers on the node or in its pods are heard.

What the packet socket sends out of the uplink reaches the LAN alone.  This veth pair is the other way:
what is sent into its free end goes to the node and the pods, and never to the LAN, for the port and the
uplink are isolated from each other.  The port learns no MAC address: the pods' frames that come out of it
would mislead the bridge.  What comes in on the uplink goes this way too in the moment in which that becomes a port,
or none again.  Runs in the netlink thread.
"""

from __future__ import annotations

from terwayd.kernel.netlink import Netlink
from terwayd.kernel.sysctl import write_sysctl
from terwayd.model import LOCAL_FREE_END, LOCAL_PORT

PORT, FREE_END = LOCAL_PORT, LOCAL_FREE_END


def ensure(netlink: Netlink, bridge: str, uplink: str) -> None:
    """Make the pair, or set it right; KernelError when the kernel refuses."""
    plug(netlink, bridge)
    if netlink.link(bridge) is not None:
        netlink.set_port(uplink, isolated=1)


def plug(netlink: Netlink, bridge: str) -> None:
    """The pair alone, while the uplink is not a port of the bridge yet."""
    master = netlink.link(bridge)
    if master is None:
        return
    port, free = netlink.link(PORT), netlink.link(FREE_END)
    if port is None or free is None or port.mtu != master.mtu:
        remove(netlink)
        netlink.add_pair(PORT, FREE_END, mtu=master.mtu)
        for name in (PORT, FREE_END):  # before it is up: no router solicitation, no link-local address
            write_sysctl(f"net/ipv6/conf/{name}/disable_ipv6", "1")
        port = None
    if port is None or port.master != master.index:
        netlink.set_link(PORT, master=master.index)
    netlink.set_port(PORT, learning=0, isolated=1)
    for name in (PORT, FREE_END):
        if (link := netlink.link(name)) is None or not link.up:
            netlink.set_link(name, state="up")


def stands(netlink: Netlink) -> bool:
    """Whether the pair is there."""
    return netlink.link(PORT) is not None


def carries(netlink: Netlink, bridge: str) -> bool:
    """Whether what is sent into the free end comes out in the bridge."""
    port, master = netlink.link(PORT), netlink.link(bridge)
    if port is None or master is None or port.master != master.index:
        return False
    return port.carrier and master.carrier  # a bridge has one when a port of it forwards


def remove(netlink: Netlink) -> None:
    """Take the pair away; it may be gone already."""
    netlink.delete_link(PORT)
    netlink.delete_link(FREE_END)
