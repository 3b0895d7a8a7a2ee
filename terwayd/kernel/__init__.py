"""The kernel's side: netlink, network namespaces, packet sockets.  Above it, values only."""
