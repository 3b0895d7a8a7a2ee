"""The host's side: its NIC goes under the bridge and comes back, as one transaction."""
