"""terwayd: a real address of the LAN for every container and pod of a Debian host."""

__version__ = "0.1.0"
