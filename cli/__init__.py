"""terwayctl: asks terwayd over its socket and shows the answers; it changes nothing by itself."""
