"""The pods' side: who a pod is on the LAN, and how it is plugged into the bridge."""
