"""A thousand leases in one engine, each a row in the database: `python3 -m tests.interop.thousand`, in a machine whose eth0 leads to a server.

Prints one line of JSON: what it took, and how long the event loop was kept from going round.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import time
from collections import Counter
from collections.abc import Hashable
from pathlib import Path

from terwayd import codec
from terwayd.clock import boottime, epoch
from terwayd.dhcp.engine import Engine
from terwayd.dhcp.lease import Lease
from terwayd.dhcp.messages import Identity
from terwayd.dhcp.outcome import Event, Renewed
from terwayd.kernel.packet import PacketTransport
from terwayd.pods.identity import Policy, Wish, attachment
from terwayd.store import AttachmentRecord, Store

COUNT = 1000
HELD = 20.0  # seconds, of leases of 20 s: each is renewed at least once


class Heart:
    """Beats every millisecond, and remembers by how much a beat was late at most.

    What the loop did or waited for counts, the disk included; the time for which the thread was ready to run and
    the machine ran something else (proc(5), schedstat) does not: it is not the loop that was blocked then.
    """

    def __init__(self) -> None:
        self.longest = 0.0
        self.stat = os.open("/proc/thread-self/schedstat", os.O_RDONLY)
        self.due, self.delayed = self.clock()
        self.beat()

    def delay(self) -> float:
        return int(os.pread(self.stat, 100, 0).split()[1]) / 1e9

    def clock(self) -> tuple[float, float]:
        """The time, and how much of it was delay: both read without a delay between them."""
        while True:
            before, now, after = self.delay(), time.monotonic(), self.delay()
            if before == after:
                return now, after

    def beat(self) -> None:
        now, delayed = self.clock()
        self.longest = max(self.longest, now - self.due - (delayed - self.delayed))
        self.due, self.delayed = now + 0.001, delayed
        asyncio.get_running_loop().call_later(0.001, self.beat)

    def take(self) -> float:
        longest, self.longest = self.longest, 0.0
        return round(longest * 1000, 1)


async def run() -> None:
    events: Counter[str] = Counter()
    store = Store(Path("/var/lib/terwayd/state.db"))
    policy = Policy(node="thousand")
    known = {
        n: attachment(policy, ("lan", f"{n}", "eth0"), Wish(namespace="t", name=f"{n}"), netns="")
        for n in range(COUNT)
    }

    def keep(n: int, lease: Lease) -> None:
        """What the daemon does with a lease: a row of the database."""
        store.write_attachment(
            known[n].key, AttachmentRecord(codec.encode(known[n]), lease.to_dict(), epoch())
        )

    async def attach(n: int, pod: Identity) -> Lease:
        lease = await engine.acquire(n, pod, timeout=60)
        keep(n, lease)
        return lease

    def on_event(key: Hashable, event: Event) -> None:
        events[type(event).__name__] += 1
        if isinstance(event, Renewed) and isinstance(key, int):
            keep(key, event.lease)

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
        tasks.append(asyncio.create_task(attach(n, pod)))
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
        store.delete_attachment(known[n].key)
        if n % 20 == 0:  # nobody confirms a RELEASE, and Kea's socket holds some two hundred
            await asyncio.sleep(0.02)
    await asyncio.sleep(1.0)
    said["release_blocked_ms"] = heart.take()
    said["max_rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    engine.close()
    print(json.dumps(said))


if __name__ == "__main__":
    asyncio.run(run())
