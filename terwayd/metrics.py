"""What the daemon counts, and how Prometheus reads it (text format 0.0.4).

Counts and observations come in by the methods of Metrics; `render` puts them beside the facts of
this moment.  Names begin with terway_, also those about the process: they may be read out of a file
together with another process's.  No label holds a pod's name, so that their number stays small.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final

ADD_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 90.0)
DHCP_BUCKETS: Final = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
)
VERBS: Final = ("ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION")
STATES: Final = ("starting", "ready", "degraded", "down")

Labels = tuple[tuple[str, str], ...]


class Histogram:
    """How often an observation fell under each bound, and their sum."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.sum = 0.0
        self._counts = [0] * (len(bounds) + 1)

    def observe(self, value: float) -> None:
        self.sum += value
        self._counts[bisect.bisect_left(self.bounds, value)] += 1

    @property
    def cumulative(self) -> list[int]:
        """The number of observations up to each bound; the last is that of all."""
        return list(accumulate(self._counts))


class Metrics:
    """The counters of this run of the daemon."""

    def __init__(self) -> None:
        self.messages: Counter[tuple[str, str]] = Counter()
        self.acquire = Histogram(DHCP_BUCKETS)
        self.acquire_failures = 0
        self.events: Counter[str] = Counter(dict.fromkeys(("lost", "conflict", "no_answer"), 0))
        self.calls: Counter[tuple[str, str]] = Counter()
        self.durations = {"ADD": Histogram(ADD_BUCKETS), "DEL": Histogram(ADD_BUCKETS)}
        self.repairs = 0
        self.rollbacks = 0

    def dhcp_message(self, direction: str, kind: str) -> None:
        """A DHCP message was "sent" or "received"."""
        self.messages[direction, kind.lower()] += 1

    def dhcp_acquired(self, seconds: float | None) -> None:
        """A lease was had after `seconds`, or None: in vain."""
        if seconds is None:
            self.acquire_failures += 1
        else:
            self.acquire.observe(seconds)

    def dhcp_event(self, event: str) -> None:
        """A lease was "lost", its address is used twice ("conflict"), or "no_answer" came."""
        self.events[event] += 1

    def cni(self, command: str, code: int, seconds: float) -> None:
        """A call of the CNI plugin was answered: `code` is that of the CNI error, 0 for success."""
        verb = command if command in VERBS else "other"
        self.calls[verb, str(code)] += 1
        if verb in self.durations and code == 0:
            self.durations[verb].observe(seconds)


@dataclass(frozen=True, slots=True)
class Process:
    """What the daemon's process takes of the host."""

    started: float
    cpu_seconds: float
    resident_bytes: int
    descriptors: int


@dataclass(frozen=True, slots=True)
class Facts:
    """How things are at this moment.  `leases` is the number by state of the DHCP client.

    `next_expiry` is the Unix time at which the first lease is over unless it is renewed, `findings`
    the number of what status finds by code and severity.
    """

    version: str
    state: str
    leases: Mapping[str, int]
    process: Process
    pods: int = 0
    next_expiry: float | None = None
    confirm_seconds: float | None = None
    findings: Mapping[tuple[str, str], int] = field(default_factory=dict)


def render(metrics: Metrics, facts: Facts) -> str:
    """The page that Prometheus scrapes."""
    page = _Page()
    page.gauge("terway_up", "Whether terwayd answers.", 1)
    page.gauge("terway_build_info", "The version of terwayd.", {(("version", facts.version),): 1})
    page.gauge(
        "terway_node_state",
        "1 for the state that the node is in.",
        {(("state", state),): int(state == facts.state) for state in STATES},
    )
    page.gauge("terway_pods", "Attached pods and containers.", facts.pods)
    page.gauge(
        "terway_leases",
        "DHCP clients of pods by the state of their lease.",
        {(("state", state),): number for state, number in sorted(facts.leases.items())},
    )
    if facts.next_expiry is not None:
        page.gauge(
            "terway_lease_next_expiry_timestamp_seconds",
            "When the first of all leases is over unless it is renewed.",
            facts.next_expiry,
        )
    page.gauge(
        "terway_findings",
        "What terwayctl status finds wrong.",
        {
            (("code", code), ("severity", severity)): n
            for (code, severity), n in sorted(facts.findings.items())
        },
    )
    if facts.confirm_seconds is not None:
        page.gauge(
            "terway_confirmation_left_seconds",
            "Until the takeover of the NIC is undone for want of confirmation.",
            facts.confirm_seconds,
        )
    _dhcp(page, metrics)
    _cni(page, metrics)
    page.counter(
        "terway_host_repairs_total", "Changes by others on the host that were mended.", metrics.repairs
    )
    page.counter("terway_host_rollbacks_total", "Takeovers of the NIC that were undone.", metrics.rollbacks)
    process = facts.process
    page.gauge("terway_start_time_seconds", "When terwayd started, as Unix time.", process.started)
    page.counter("terway_cpu_seconds_total", "Processor time that terwayd has used.", process.cpu_seconds)
    page.gauge("terway_resident_memory_bytes", "Memory that terwayd has resident.", process.resident_bytes)
    page.gauge("terway_open_fds", "File descriptors that terwayd holds open.", process.descriptors)
    return page.text()


def unavailable() -> str:
    """The page of a daemon that does not answer, for a file that others go on reading."""
    page = _Page()
    page.gauge("terway_up", "Whether terwayd answers.", 0)
    return page.text()


def _dhcp(page: _Page, metrics: Metrics) -> None:
    page.counter(
        "terway_dhcp_messages_total",
        "DHCP messages of the clients on this node.",
        {
            (("direction", direction), ("type", kind)): number
            for (direction, kind), number in sorted(metrics.messages.items())
        },
    )
    page.histogram(
        "terway_dhcp_acquire_seconds",
        "From the first DISCOVER to the lease.",
        {(): metrics.acquire},
    )
    page.counter(
        "terway_dhcp_acquire_failures_total", "Leases that were asked for in vain.", metrics.acquire_failures
    )
    page.counter(
        "terway_dhcp_events_total",
        "What happened to leases: lost, in conflict with another station, no answer to a renewal.",
        {(("event", event),): number for event, number in sorted(metrics.events.items())},
    )


def _cni(page: _Page, metrics: Metrics) -> None:
    page.counter(
        "terway_cni_requests_total",
        "Calls of the CNI plugin by verb and CNI error code, 0 for success.",
        {
            (("command", command), ("code", code)): number
            for (command, code), number in sorted(metrics.calls.items())
        },
    )
    page.histogram(
        "terway_cni_duration_seconds",
        "How long successful calls of the CNI plugin took.",
        {(("command", verb),): histogram for verb, histogram in metrics.durations.items()},
    )


Samples = float | Mapping[Labels, float]


class _Page:
    def __init__(self) -> None:
        self._lines: list[str] = []

    def gauge(self, name: str, text: str, samples: Samples) -> None:
        self._family(name, "gauge", text, samples)

    def counter(self, name: str, text: str, samples: Samples) -> None:
        self._family(name, "counter", text, samples)

    def histogram(self, name: str, text: str, histograms: Mapping[Labels, Histogram]) -> None:
        self._head(name, "histogram", text)
        for labels, histogram in histograms.items():
            counts = histogram.cumulative
            for bound, number in zip([*map(_number, histogram.bounds), "+Inf"], counts, strict=True):
                self._sample(f"{name}_bucket", (*labels, ("le", bound)), number)
            self._sample(f"{name}_sum", labels, histogram.sum)
            self._sample(f"{name}_count", labels, counts[-1])

    def _family(self, name: str, kind: str, text: str, samples: Samples) -> None:
        each = samples if isinstance(samples, Mapping) else {(): samples}
        if each:
            self._head(name, kind, text)
        for labels, value in each.items():
            self._sample(name, labels, value)

    def _head(self, name: str, kind: str, text: str) -> None:
        self._lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]

    def _sample(self, name: str, labels: Labels, value: float) -> None:
        self._lines.append(f"{name}{_labels(labels)} {_number(value)}")

    def text(self) -> str:
        return "\n".join(self._lines) + "\n"


def _labels(labels: Iterable[tuple[str, str]]) -> str:
    inner = ",".join(f'{name}="{_escape(value)}"' for name, value in labels)
    return f"{{{inner}}}" if inner else ""


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(round(value, 6))
