"""terwayd with the DHCP servers that people run: Kea, ISC dhcpd, udhcpd, dnsmasq."""
