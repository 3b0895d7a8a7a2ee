"""Long random runs: pods come and go, everything around them fails, and nothing may be lost or left."""
