"""Debian systems that boot systemd as PID 1, with a NIC on the lab's LAN, and the package in them."""
