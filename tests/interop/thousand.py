"""A thousand leases in one engine: `python3 -m tests.interop.thousand`, in a machine whose eth0 leads to a server.

Prints one line of JSON: what it took, and how long the event loop was kept from going round.
"""

from __future__ import annotations

import asyncio
import json
import random
import resource
import time
from collections import Counter
from collections.abc import Hashable

from terwayd.clock import boottime
from terwayd.dhcp.client import Event, Identity
from terwayd.dhcp.engine import Engine
from terwayd.kernel.packet import PacketTransport

COUNT = 1000
HELD = 20.0  # seconds, of leases of 20 s: each is renewed at least once


class Heart:
    """Beats every millisecond, and remembers the most work (CPU time) that was done between two beats.

    Time in which the machine ran something else does not count: it is not the loop that waited then.
    """

    def __init__(self) -> None:
        self.longest, self.last = 0.0, time.thread_time()
        self.beat()

    def beat(self) -> None:
        now = time.thread_time()
        self.longest, self.last = max(self.longest, now - self.last), now
        asyncio.get_running_loop().call_later(0.001, self.beat)

    def take(self) -> float:
        longest, self.longest = self.longest, 0.0
        return round(longest * 1000, 1)


async def run() -> None:
    events: Counter[str] = Counter()

    def on_event(_key: Hashable, event: Event) -> None:
        events[type(event).__name__] += 1

    transport = PacketTransport("eth0", asyncio.get_running_loop())
    engine = Engine(transport, clock=boottime, rng=random.Random(), on_event=on_event, discover_rate=COUNT)
    pods = [
        Identity(bytes.fromhex("02bb0000") + n.to_bytes(2, "big"), b"\0pod-%d" % n, f"pod-{n}", "terwayd")
        for n in range(COUNT)
    ]
    heart = Heart()
    said: dict[str, float] = {}
    began = time.perf_counter()
    tasks = []
    for n, pod in enumerate(pods):
        tasks.append(asyncio.create_task(engine.acquire(n, pod, timeout=60)))
        if n % 20 == 0:  # each call of a runtime comes by a socket of its own
            await asyncio.sleep(0)
    leases = await asyncio.gather(*tasks)
    said["acquired"] = len({lease.address for lease in leases})
    said["acquire_s"] = round(time.perf_counter() - began, 2)
    said["acquire_blocked_ms"] = heart.take()
    cpu = time.process_time()
    await asyncio.sleep(HELD)
    said["renewals"] = events["Renewed"]
    said["others"] = sum(events.values()) - events["Renewed"]
    said["held"] = sum(engine.lease(n) is not None for n in range(COUNT))
    said["hold_cpu_s"] = round(time.process_time() - cpu, 2)
    said["hold_blocked_ms"] = heart.take()
    for n in range(COUNT):
        engine.release(n)
        if n % 20 == 0:  # nobody confirms a RELEASE, and Kea's socket holds some two hundred
            await asyncio.sleep(0.02)
    await asyncio.sleep(1.0)
    said["release_blocked_ms"] = heart.take()
    said["max_rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    engine.close()
    print(json.dumps(said))


if __name__ == "__main__":
    asyncio.run(run())
