"""The page of metrics: by the rules of promtool, and with the numbers that were counted."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from terwayd.metrics import Facts, Histogram, Metrics, Process, render, unavailable
from tests.core.promlint import problems

PROCESS = Process(started=1700000000.25, cpu_seconds=1.5, resident_bytes=40 << 20, descriptors=17)


def page() -> str:
    metrics = Metrics()
    for kind, direction in (("DISCOVER", "sent"), ("OFFER", "received"), ("DISCOVER", "sent")):
        metrics.dhcp_message(direction, kind)
    metrics.dhcp_acquired(0.002)
    metrics.dhcp_acquired(1000.0)
    metrics.dhcp_acquired(None)
    metrics.dhcp_event("lost")
    metrics.cni("ADD", 0, 0.0125)
    metrics.cni("ADD", 11, 60.0)
    metrics.cni('EVIL"\n', 4, 0.0)
    facts = Facts(
        "1.0",
        "ready",
        {"bound": 2, "selecting": 0},
        PROCESS,
        pods=2,
        next_expiry=1700000120.5,
        confirm_seconds=12.5,
        findings={('a "b"\\', "error"): 1},
    )
    return render(metrics, facts)


def test_promtool_has_nothing_to_say() -> None:
    for text in (page(), render(Metrics(), Facts("1.0", "down", {}, PROCESS)), unavailable()):
        assert problems(text) == []
        if tool := shutil.which("promtool"):
            subprocess.run([tool, "check", "metrics"], input=text.encode(), check=True)


@pytest.mark.parametrize(
    "line",
    [
        'terway_node_state{state="ready"} 1',
        'terway_node_state{state="down"} 0',
        'terway_leases{state="bound"} 2',
        'terway_leases{state="selecting"} 0',
        "terway_lease_next_expiry_timestamp_seconds 1700000120.5",
        "terway_confirmation_left_seconds 12.5",
        'terway_findings{code="a \\"b\\"\\\\",severity="error"} 1',
        'terway_dhcp_messages_total{direction="sent",type="discover"} 2',
        'terway_dhcp_messages_total{direction="received",type="offer"} 1',
        'terway_dhcp_acquire_seconds_bucket{le="0.001"} 0',
        'terway_dhcp_acquire_seconds_bucket{le="0.0025"} 1',
        'terway_dhcp_acquire_seconds_bucket{le="60"} 1',
        'terway_dhcp_acquire_seconds_bucket{le="+Inf"} 2',
        "terway_dhcp_acquire_seconds_sum 1000.002",
        "terway_dhcp_acquire_failures_total 1",
        'terway_dhcp_events_total{event="lost"} 1',
        'terway_dhcp_events_total{event="conflict"} 0',
        'terway_cni_requests_total{command="ADD",code="0"} 1',
        'terway_cni_requests_total{command="ADD",code="11"} 1',
        'terway_cni_requests_total{command="other",code="4"} 1',
        'terway_cni_duration_seconds_bucket{command="ADD",le="0.01"} 0',
        'terway_cni_duration_seconds_bucket{command="ADD",le="0.025"} 1',
        'terway_cni_duration_seconds_count{command="ADD"} 1',
        "terway_start_time_seconds 1700000000.25",
        "terway_resident_memory_bytes 41943040",
    ],
)
def test_the_numbers(line: str) -> None:
    assert line in page().splitlines()


def test_a_bound_belongs_to_its_bucket() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 2.5):
        histogram.observe(value)
    assert histogram.cumulative == [2, 4, 5]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("# HELP terway_x x\n# TYPE terway_x counter\nterway_x 1\n", "_total is for counters"),
        ("# TYPE terway_x gauge\nterway_x 1\n", "no help text"),
        ("# HELP terway_x_ms x\n# TYPE terway_x_ms gauge\nterway_x_ms 1\n", "an abbreviated unit"),
        ("# HELP terway_x x\n# TYPE terway_x gauge\nterway_x 1\nterway_x 2\n", "twice"),
        (page().replace('le="0.0025"} 1', 'le="0.0025"} 9'), "buckets"),
    ],
)
def test_the_rules_see(text: str, problem: str) -> None:
    assert any(problem in found for found in problems(text))
