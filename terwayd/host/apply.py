"""Doing the steps: each by the netlink call for it, in order, in the netlink thread."""

from __future__ import annotations

from collections.abc import Iterable

from terwayd.host import steps as s
from terwayd.kernel.netlink import Netlink, write_sysctl


def apply(netlink: Netlink, steps: Iterable[s.Step]) -> None:
    """Do `steps` in order; raises KernelError at the first that the kernel refuses."""
    for step in steps:
        do(netlink, step)


def apply_all(netlink: Netlink, steps: Iterable[s.Step]) -> list[Exception]:
    """Do every one of `steps`, whatever becomes of the others; what was refused is returned."""
    refused: list[Exception] = []
    for step in steps:
        try:
            do(netlink, step)
        except Exception as error:  # an undo goes on: each step that works brings the host nearer
            refused.append(error)
    return refused


def do(netlink: Netlink, step: s.Step) -> None:
    """Do one step; done already is done."""
    match step:
        case s.AddBridge(name, mac, mtu):
            netlink.add_bridge(name, mac, mtu)
        case s.DelLink(name):
            netlink.delete_link(name)
        case s.SetUp(dev):
            netlink.set_link(dev, state="up")
        case s.SetAlias(dev, alias):
            netlink.set_link(dev, ifalias=alias)
        case s.SetMac(dev, mac):
            netlink.set_link(dev, address=mac)
        case s.SetMtu(dev, mtu):
            netlink.set_link(dev, mtu=mtu)
        case s.Enslave(dev, bridge):
            netlink.set_link(dev, master=netlink.index(bridge))
        case s.Release(dev, _):
            netlink.set_link(dev, master=0)
        case s.SetSysctl(key, value):
            write_sysctl(key, value)
        case s.AddAddress(address):
            netlink.add_address(address)
        case s.DelAddress(address):
            netlink.delete_address(address)
        case s.AddNeighbour(neighbour):
            netlink.add_neighbour(neighbour)
        case s.AddRoute(route):
            netlink.add_route(route)
        case s.DelRoute(route):
            netlink.delete_route(route)
