"""How long attaching and detaching takes, ours beside the peers', in turns on one lab LAN: `make bench`."""
