"""Formats a daemon's numbers (daemon/measure.py) as text for people.  Law: it asks no daemon.

A percentile is the upper edge of its bucket, and each bucket ends at twice the edge below it.  So
"16 us" means: at most 16.4 us, and more than half of that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from fusemount import _native
from fusemount.cli.tables import table

DOORS = {"native": "fast path", "python": "Python"}

# Labels for the counters of Stats.snapshot(). A counter without a label shows its own name.
_COUNTERS = {
    "copy_up_waits": "waited for Python to copy a file up",
    "pushed_files": "files pushed ahead of a reader",
    "pushed_bytes": "bytes pushed",
    "push_misses": "pushes of what the kernel had forgotten",
    "wakeups": "wake-ups of a sleeping thread",
    "spins": "requests met by a spinning thread",
    "malformed": "malformed or unknown requests",
}

_HEADS = ("OPERATION", "DOOR", "COUNT", "ERRORS", "P50", "P99", "MEAN", "MB")
_RATES = ("OPERATION", "DOOR", "PER SECOND", "ERRORS", "P50", "P99", "MEAN", "MB/S")
_WORDS = 2  # columns before the numbers


def operations(requests: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(operation, door, numbers), in the order of the kernel's opcodes."""
    for operation, doors in requests["ops"].items():
        for door, numbers in doors.items():
            yield operation, door, numbers


def counters(requests: dict[str, Any]) -> dict[str, int]:
    return {name: value for name, value in requests.items() if isinstance(value, int)}


def difference(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """The requests between two snapshots, in the form of a snapshot."""
    ops: dict[str, dict[str, Any]] = {}
    for operation, door, now in operations(after):
        then = before["ops"].get(operation, {}).get(door)
        if then is not None:
            now = _between(then, now)
        if now["count"]:
            ops.setdefault(operation, {})[door] = now
    old = counters(before)
    return {"ops": ops} | {k: v - old.get(k, 0) for k, v in counters(after).items()}


def _between(then: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    made = {key: now[key] - then[key] for key in ("count", "errors", "bytes", "total_ns")}
    buckets = [b - a for a, b in zip(then["buckets"], now["buckets"], strict=True)]
    made["mean_ns"] = made["total_ns"] // made["count"] if made["count"] else 0
    for key, p in (("p50_ns", 0.5), ("p90_ns", 0.9), ("p99_ns", 0.99), ("max_ns", 1.0)):
        made[key] = _native.Stats.percentile(buckets, p)
    return made | {"buckets": buckets}


def report(answer: dict[str, Any]) -> str:
    """The report of all requests since the mount."""
    requests = answer["requests"]
    rows = [_row(*found, 1.0) for found in operations(requests)]
    return _columns(_HEADS, rows) + "\n\n" + _totals(answer, requests)


def rates(answer: dict[str, Any], made: dict[str, Any], seconds: float) -> str:
    """The report of one interval, with numbers for one second.

    made: the requests of the interval.  answer: the daemon's state at its end.
    """
    rows = [_row(*found, seconds) for found in operations(made)]
    return _columns(_RATES, rows) + "\n\n" + _totals(answer, made)


RATE_HEADS = ("TIME", "REQUESTS/S", "FAST PATH", "ERRORS", "P50", "P99", "MB/S", "RSS")
_RATE_WIDTHS = (8, 10, 9, 6, 8, 8, 8, 10)


def rate_line(cells: Sequence[str]) -> str:
    """A line with one interval or the heads; the columns are equally wide in all lines."""
    return "   ".join(c.rjust(w) for c, w in zip(cells, _RATE_WIDTHS, strict=True))


def rate_cells(
    clock: str, answer: dict[str, Any], made: dict[str, Any], seconds: float
) -> tuple[str, ...]:
    found = [numbers for _, _, numbers in operations(made)]
    buckets = [sum(column) for column in zip(*(n["buckets"] for n in found), strict=True)]
    p50, p99 = (_native.Stats.percentile(buckets, p) if buckets else 0 for p in (0.5, 0.99))
    return (
        clock,
        _number(sum(n["count"] for n in found) / seconds),
        share(made),
        str(sum(n["errors"] for n in found)),
        duration(p50),
        duration(p99),
        _megabytes(sum(n["bytes"] for n in found) / seconds),
        mebibytes(answer["memory"]["rss_bytes"]),
    )


def share(requests: dict[str, Any]) -> str:
    """The share of the requests that the fast path answered."""
    counts = dict.fromkeys(DOORS, 0)
    for _, door, numbers in operations(requests):
        counts[door] += numbers["count"]
    total = sum(counts.values())
    return f"{100 * counts['native'] / total:.1f} %" if total else "-"


def _row(operation: str, door: str, numbers: dict[str, Any], seconds: float) -> tuple[str, ...]:
    return (
        operation,
        DOORS[door],
        _number(numbers["count"] / seconds),
        f"{numbers['errors']:,}",
        duration(numbers["p50_ns"]),
        duration(numbers["p99_ns"]),
        duration(numbers["mean_ns"]),
        _megabytes(numbers["bytes"] / seconds),
    )


def _columns(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose numbers are aligned to the right."""
    widths = [max(len(row[i]) for row in (heads, *rows)) for i in range(len(heads))]

    def aligned(row: Sequence[str]) -> list[str]:
        right = [c.rjust(w) for c, w in zip(row[_WORDS:], widths[_WORDS:], strict=True)]
        return [*row[:_WORDS], *right]

    return table(aligned(heads), [aligned(row) for row in rows])


def _totals(answer: dict[str, Any], requests: dict[str, Any]) -> str:
    memory, tree, descriptors = answer["memory"], answer["tree"], answer["descriptors"]
    count = sum(numbers["count"] for _, _, numbers in operations(requests))
    each = f"{tree['bytes'] / tree['nodes']:.0f}" if tree["nodes"] else "-"
    lines = [
        ("requests", f"{count:,}"),
        ("answered by the fast path", share(requests) if answer["fastpath"] else "off"),
        ("memory (VmRSS)", mebibytes(memory["rss_bytes"])),
        ("memory, at most (VmHWM)", mebibytes(memory["peak_rss_bytes"])),
        ("nodes in the tree", f"{tree['nodes']:,}"),
        ("bytes of the tree", f"{tree['bytes']:,} ({each} a node)"),
        ("descriptors", f"{descriptors['open']:,} of {descriptors['limit']:,}"),
    ]
    for name, value in counters(requests).items():
        lines.append((_COUNTERS.get(name, name.replace("_", " ")), f"{value:,}"))
    width = max(len(label) for label, _ in lines)
    return "\n".join(f"{label:<{width}}   {value}" for label, value in lines)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"


def _megabytes(count: float) -> str:
    return f"{count / 1e6:,.1f}" if count else "-"


def mebibytes(count: int) -> str:
    return f"{count / (1 << 20):,.1f} MiB"


def duration(ns: int) -> str:
    """The time in the largest unit that it reaches."""
    for unit, size in (("s", 10**9), ("ms", 10**6), ("us", 10**3)):
        if ns >= size:
            value = ns / size
            return f"{value:.0f} {unit}" if value >= 10 else f"{value:.1f} {unit}"
    return f"{ns} ns"
