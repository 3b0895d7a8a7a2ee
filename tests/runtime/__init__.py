"""terwayd under real container runtimes: Debian's containerd (ctr and CRI) and podman, each on a node of the lab.

Nothing stands in for anything: the runtime starts the installed plugin itself, by the conflist that the
daemon wrote, and the LAN's DHCP server is asked what it was told.  Needs the Debian packages containerd,
runc, podman, busybox-static, curl and containernetworking-plugins.
"""
