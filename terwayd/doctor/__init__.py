"""The doctor: facts of this host and its LAN, and the checks that judge them."""
