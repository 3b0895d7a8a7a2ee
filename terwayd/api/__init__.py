"""The door: Varlink on one Unix socket, for the shim, terwayctl and varlinkctl alike."""
