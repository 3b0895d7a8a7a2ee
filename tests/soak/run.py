"""A run of rounds: a hundred operations at once with something broken in the middle, then quiet, then a look."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from tests.lab import LabError, Lan, eventually
from tests.soak import invariants
from tests.soak.world import Broken, Chaos, Slot, World

BATCH = 16  # operations at once, each on a slot of its own
BATCHES = 6  # in a round; something breaks after the second, and is healed after the fourth
QUIET = 90.0  # seconds in which everything has to have settled


@dataclass(slots=True)
class Report:
    """What a run did.  `sizes` are of each quiet point: the largest daemon's kilobytes and descriptors."""

    seed: int
    rounds: int = 0
    done: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    sizes: list[invariants.Size] = field(default_factory=list)
    slowest: float = 0.0
    settled: float = 0.0
    broken: str = ""

    @property
    def well(self) -> bool:
        return not self.broken

    @property
    def operations(self) -> int:
        return sum(count for name, count in self.done.items() if not name.startswith("chaos"))

    def __str__(self) -> str:
        first, last = (self.sizes[min(3, len(self.sizes) - 1)], self.sizes[-1]) if self.sizes else ("-", "-")
        lines = [
            f"seed {self.seed}: {self.operations} operations in {self.rounds} rounds",
            f"  done: {dict(self.done)}",
            f"  refused while something was broken: {dict(self.failed)}",
            f"  slowest ADD in peace {self.slowest * 1000:.0f} ms, longest settling {self.settled:.1f} s",
            f"  daemon: {first} after the first rounds, {last} at the end",
        ]
        return "\n".join([*lines, f"  BROKEN: {self.broken}"] if self.broken else lines)


def soak(
    seconds: float, seed: int, *, nodes: int = 2, slots: int = 16, told: Callable[[str], None] = print
) -> Report:
    """Rounds for `seconds`, the same ones for the same `seed`; ends early at the first thing that is wrong."""
    rng, report = random.Random(seed), Report(seed)
    told(f"soak: seed {seed}")
    end = time.monotonic() + seconds
    with Lan() as lan, ThreadPoolExecutor(BATCH) as pool:
        world = World(lan, nodes, slots)
        chaos = Chaos(world, rng)
        try:
            while time.monotonic() < end:
                _round(world, chaos, pool, rng)
                started = time.monotonic()
                eventually(lambda: invariants.check(world), QUIET, "all is settled", 0.1)
                report.settled = max(report.settled, time.monotonic() - started)
                report.rounds += 1
                report.sizes.append(
                    max((invariants.size(node) for node in world.nodes), key=lambda s: s.kilobytes)
                )
                if report.rounds % 20 == 0:
                    told(
                        f"soak: {report.rounds} rounds, {sum(world.done.values())} operations, {report.sizes[-1]}"
                    )
        except (Broken, LabError, AssertionError) as error:
            report.broken = f"round {report.rounds + 1}: {error}"
            Lan.failures += lan.report()
        report.done, report.failed, report.slowest = world.done, world.failed, world.slowest
    return report


def _round(world: World, chaos: Chaos, pool: ThreadPoolExecutor, rng: random.Random) -> None:
    name = rng.choice(Chaos.NAMES)
    for number in range(BATCHES):
        if number == 2:
            chaos.strike(name)
        if number == 4:
            chaos.heal()
        chosen = rng.sample(world.slots, BATCH)
        orders = [(slot, rng.random(), rng.random() * 0.06) for slot in chosen]
        list(pool.map(lambda order: world.operate(*order), orders))
    _finish(world, pool)


def _finish(world: World, pool: ThreadPoolExecutor) -> None:
    """What a runtime has still to take out, it takes out now."""

    def leave(slot: Slot) -> None:
        for pod in list(slot.leaving):
            world.leave(slot, pod)

    list(pool.map(leave, [slot for slot in world.slots if slot.leaving]))
