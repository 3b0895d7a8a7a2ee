"""What `promtool check metrics` holds against a page of metrics, without promtool."""

from __future__ import annotations

import re
from collections import defaultdict

SAMPLE = re.compile(r'([a-z_]+)(?:\{((?:[a-z_]+="(?:[^"\\\n]|\\[\\"n])*",?)*)\})? (\S+)')
LABEL = re.compile(r'([a-z_]+)="((?:[^"\\]|\\.)*)"')
TYPES = {"counter", "gauge", "histogram", "summary"}
OTHER_UNITS = {
    *("milliseconds", "microseconds", "nanoseconds", "minutes", "hours", "days", "weeks"),
    *("kilobytes", "megabytes", "gigabytes", "kibibytes", "mebibytes", "bits", "percent"),
}
ABBREVIATIONS = {"s", "ms", "us", "ns", "sec", "b", "kb", "mb", "gb", "kib", "mib", "m", "h", "d", "bytes_s"}

Samples = dict[tuple[tuple[str, str], ...], float]


def problems(page: str) -> list[str]:
    """What is wrong with the page, a line each; empty when promtool would have nothing to say."""
    if not page.endswith("\n"):
        return ["the last line does not end"]
    found: list[str] = []
    help_of: dict[str, str] = {}
    type_of: dict[str, str] = {}
    samples: dict[str, Samples] = defaultdict(dict)
    order: list[str] = []
    for line in page.splitlines():
        if line.startswith("# HELP "):
            name, _, text = line.removeprefix("# HELP ").partition(" ")
            found += [f"{name}: HELP twice"] if name in help_of else []
            help_of[name] = text
            continue
        if line.startswith("# TYPE "):
            name, _, kind = line.removeprefix("# TYPE ").partition(" ")
            found += [f"{name}: TYPE twice"] if name in type_of else []
            type_of[name] = kind
            continue
        match = SAMPLE.fullmatch(line)
        if match is None:
            found.append(f"not a sample: {line}")
            continue
        labels = tuple(sorted(LABEL.findall(match[2] or "")))
        found += [f"twice: {line}"] if labels in samples[match[1]] else []
        samples[match[1]][labels] = float(match[3])
        family = family_of(match[1], type_of)
        if not order or order[-1] != family:
            found += [f"{family}: not in one piece"] if family in order else []
            order.append(family)
    for family in order:
        found += [f"{family}: {what}" for what in of_name(family, type_of.get(family, ""))]
        found += [] if help_of.get(family) else [f"{family}: no help text"]
        if type_of.get(family) == "histogram":
            found += [f"{family}: {what}" for what in of_histogram(family, samples)]
        elif any(name == "le" for labels in samples[family] for name, _ in labels):
            found.append(f"{family}: label le")
    return found + [f"{name}: no samples" for name in type_of if name not in order]


def family_of(name: str, type_of: dict[str, str]) -> str:
    base = re.sub(r"_(bucket|sum|count)$", "", name)
    return base if type_of.get(base) == "histogram" else name


def of_name(name: str, kind: str) -> list[str]:
    words = name.split("_")
    found = [] if kind in TYPES else [f"type {kind!r}"]
    if (kind == "counter") != (words[-1] == "total"):
        found.append("_total is for counters, and for all of them")
    if kind != "histogram" and words[-1] in {"bucket", "sum", "count"}:
        found.append(f"_{words[-1]} is for histograms")
    found += [f"not a base unit: {word}" for word in words if word in OTHER_UNITS]
    found += [f"an abbreviated unit: {word}" for word in words[1:] if word in ABBREVIATIONS]
    return found + [f"its type in its name: {word}" for word in words if word in TYPES]


def of_histogram(name: str, samples: dict[str, Samples]) -> list[str]:
    found = []
    groups: dict[tuple[tuple[str, str], ...], list[tuple[float, float]]] = defaultdict(list)
    for labels, value in samples[f"{name}_bucket"].items():
        rest = tuple(label for label in labels if label[0] != "le")
        groups[rest].append((float(dict(labels)["le"]), value))
    for rest, buckets in groups.items():
        counts = [value for _, value in sorted(buckets)]
        if counts != sorted(counts) or max(buckets)[0] != float("inf"):
            found.append(f"buckets {counts}")
        if counts[-1] != samples[f"{name}_count"].get(rest) or rest not in samples[f"{name}_sum"]:
            found.append("count or sum differ from the buckets")
    return found
