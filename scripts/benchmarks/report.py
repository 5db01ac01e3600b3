"""Writes the report from the figures.

Law: it uses no clock and no file system: the same results give the same report.

A ratio is one of medians, imgmount ÷ the other contestant.  Under 1, imgmount is faster.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.running import Memory, Results, Run

MIB = 1 << 20
OURS = "imgmount"
NOTHING = "–"  # noqa: RUF001  (the sign the table of limits uses)
MEMORY_BASE, MEMORY_A_NODE = 45 * MIB, 200


@dataclass(frozen=True)
class Limit:
    """The greatest allowed ratios to the kernel's overlayfs and fuse-overlayfs; None: no limit."""

    measure: str
    overlayfs: float | None
    fuse_overlayfs: float | None
    tried_for: float | None = None


LIMITS = [
    Limit("stat walk, warm", 1.0, 0.5),
    Limit("stat walk, first", 1.5, 0.35),
    Limit("read-all walk, first", 3.5, 0.25, 2.0),
    Limit("read-all walk, second", 2.5, 0.25, 1.2),
    Limit("read-all walk, third", 1.0, 0.25),
    Limit("import numpy, warm", 1.1, 0.9),
    Limit("create small files", 6.0, 0.35, 3.0),
    Limit("rm -rf of small files", 6.0, 0.5, 3.0),
    Limit("untar", 5.0, 0.4, 2.5),
    Limit("write + fsync", 1.0, 0.5),
    Limit("re-read", 1.1, 0.5),
    Limit("random 4 KiB writes + fsync", 1.0, 0.3),
    Limit("fsync loop", 1.6, 1.0),
    Limit("apt-get install", 1.5, 0.7),
]
STORE_LIMITS = [  # (measure, other contestant, greatest allowed ratio)
    ("pull of five layers", "skopeo", 1.0),
    ("pull of five layers", "podman", 0.5),
    ("load of a docker-archive", "podman", 0.4),
]
STORE_MEMORY = 120 << 20
SECONDS = {
    "ls of 1,000 images": 0.150,
    "mount to first ls, 100,000 entries": 0.200,
    "mount to first ls, 1,000,000 entries": 0.350,
}


@dataclass(frozen=True)
class Within:
    """The greatest allowed ratio of a measure of imgmount to one of another contestant, or to
    another measure of imgmount."""

    measure: str
    other: str
    most: float
    tried_for: float | None = None
    beside: str = ""
    """The other's measure, if it is not the same."""


PACKED_LIMITS = [  # one of the limits of a row is enough
    (Within("first mount to ls, gzip", "umoci", 0.15),),
    (Within("first mount to ls, gzip", "podman", 0.15),),
    *((Within(f"first mount to ls, {form}", "merely", 1.15),)
      for form in ("gzip", "zstd", "zstd in frames")),
    *((Within(f"import numpy, {form}", OURS, 1.5, beside="import numpy, plain"),)
      for form in ("gzip", "zstd", "zstd in frames")),
    *((Within(f"one stream, {form}", "ratarmount", 1.0),) for form in ("gzip", "zstd")),
    *((Within(f"one stream, {form}", "merely", 1 / 0.9),) for form in ("gzip", "zstd")),
    *((Within(f"first read-all walk, {form}", "merely", 1.3),) for form in ("gzip", "zstd")),
    *((Within(f"pull, {form}", "skopeo", 1.25, 1.0), Within(f"pull, {form}", "merely", 1.15))
      for form in ("gzip", "zstd")),
]  # fmt: skip
PACKED_SECONDS = {
    **{f"{what}, {form}": 0.200
       for form in ("plain", "gzip", "zstd", "zstd in frames")
       for what in ("first mount after load", "second mount after load", "first mount after copy",
                    "second mount after copy", "second mount to ls")},
    "first mount after pull, gzip": 0.200,
    "first mount after pull, zstd": 0.200,
    "random 64 KiB read, median, gzip": 0.005,
    "random 64 KiB read, 99th of 100, gzip": 0.012,
    "random 64 KiB read, median, zstd": 0.004,
    "random 64 KiB read, 99th of 100, zstd": 0.012,
}  # fmt: skip
PACKED_SHARES = {
    "disk after first mount, gzip": 0.015,
    "disk after first mount, zstd in frames": 0.005,
    "disk after first mount, zstd": 1.15,
}
PACKED_MEMORY_BASE = 150 * MIB

Times = Mapping[str, Mapping[str, Sequence[float]]]
"""Seconds of every run, by measure and contestant."""


def times(runs: Sequence[Run]) -> dict[str, dict[str, list[float]]]:
    """The seconds of all runs; measures and contestants in the order in which they ran."""
    found: dict[str, dict[str, list[float]]] = {}
    for run in runs:
        found.setdefault(run.measure, {}).setdefault(run.contestant, []).append(run.seconds)
    return found


def ratio(rows: Mapping[str, Sequence[float]], other: str, ours: str = OURS) -> float | None:
    """Median of ours ÷ median of the other; None if one of them has no runs or took no time."""
    if not rows.get(ours) or not rows.get(other):
        return None
    below = statistics.median(rows[other])
    return statistics.median(rows[ours]) / below if below else None


def figure(value: float | None, unit: str = "") -> str:
    """The value with three significant digits, without an exponent."""
    if value is None:
        return NOTHING
    digits = 3 if abs(value) < 1 else 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:.{digits}f}{unit}"


def exact(seconds: float) -> str:
    return f"{seconds:.{4 if seconds < 1 else 3 if seconds < 10 else 2}f}"


def every_figure(results: Results, contestants: Sequence[str]) -> str:
    """A line for each measure and contestant; contestants that cannot do a work share one line."""
    failed = {(f.work, f.contestant) for f in results.failures}
    work_of = {run.measure: run.work for run in results.runs}
    lines = [
        "| work | contestant | median s | min | max | imgmount ÷ it |",
        "|---|---|---|---|---|---|",
    ]
    for measure, rows in times(results.runs).items():
        without = []
        for name in contestants:
            if name in rows:
                cells = [exact(pick(rows[name])) for pick in (statistics.median, min, max)]
                cells.append(figure(ratio(rows, name)))
                lines.append(f"| {measure} | {name} | " + " | ".join(cells) + " |")
            elif (work_of[measure], name) in failed:
                lines.append(f"| {measure} | {name} | failed |" + f" {NOTHING} |" * 3)
            else:
                without.append(name)
        if without:
            lines.append(f"| {measure} | {', '.join(without)} |" + f" {NOTHING} |" * 4)
    return "\n".join(lines)


def against_limits(results: Results) -> str:
    """The table of limits: ratios found and allowed, and whether they are met."""
    rows = times(results.runs)
    lines = [
        "| work | ÷ overlayfs | limit | met | ÷ fuse-overlayfs | limit | met |",
        "|---|---|---|---|---|---|---|",
    ]
    for limit in LIMITS:
        cells = [limit.measure]
        for other, most, wish in (
            ("overlayfs", limit.overlayfs, limit.tried_for),
            ("fuse-overlayfs", limit.fuse_overlayfs, None),
        ):
            found = ratio(rows.get(limit.measure, {}), other)
            cells += [figure(found), _allowed(most, wish), verdict(found, most)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def store_limits(results: Results) -> str:
    rows = times(results.runs)
    lines = ["| work | beside | found | limit | met |", "|---|---|---|---|---|"]
    for measure, other, most in STORE_LIMITS:
        found = ratio(rows.get(measure, {}), other)
        cells = [measure, other, figure(found), _allowed(most, None), verdict(found, most)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _allowed(most: float | None, wish: float | None) -> str:
    if most is None:
        return NOTHING
    return f"≤ {most:.4g}" + (f", try {wish:g}" if wish else "")


def verdict(found: float | None, most: float | None) -> str:
    if found is None or most is None:
        return NOTHING
    return "yes" if found <= most else "**no**"


def packed_limits(results: Results) -> str:
    """Ratios of the works on compressed layers, and what these take on disk."""
    rows = times(results.runs)
    lines = ["| imgmount | beside | found | limit | met |", "|---|---|---|---|---|"]
    for limits in PACKED_LIMITS:
        found = [_within(rows, limit) for limit in limits]
        known = [value <= limit.most for value, limit in zip(found, limits, strict=True)
                 if value is not None]  # fmt: skip
        met = NOTHING if not known else "yes" if any(known) else "**no**"
        for value, limit in zip(found, limits, strict=True):
            cells = [limit.measure, limit.beside or limit.other, figure(value)]
            cells += [_allowed(limit.most, limit.tried_for), met]
            lines.append("| " + " | ".join(cells) + " |")
    for measure, most in PACKED_SHARES.items():
        shares = [s.share for s in results.shares if (s.measure, s.contestant) == (measure, OURS)]
        share = statistics.median(shares) if shares else None
        shown = figure(share * 100, " %") if share is not None else NOTHING
        cells = [measure, "the blobs", shown, f"≤ {most * 100:g} %", verdict(share, most)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _within(rows: Times, limit: Within) -> float | None:
    ours = rows.get(limit.measure, {}).get(OURS, [])
    other = rows.get(limit.beside or limit.measure, {}).get(limit.other, [])
    return ratio({"above": ours, "below": other}, "below", "above")


def absolute_limits(results: Results, seconds: Mapping[str, float] = SECONDS) -> str:
    """Seconds to the first ls, and the daemon's memory: its base, and bytes per node."""
    lines = ["| imgmount | found | limit | met |", "|---|---|---|---|"]
    rows = times(results.runs)
    for measure, most in seconds.items():
        found = rows.get(measure, {}).get(OURS)
        median = statistics.median(found) if found else None
        shown = figure(median * 1000, " ms") if median is not None else NOTHING
        lines.append(f"| {measure} | {shown} | ≤ {most * 1000:g} ms | {verdict(median, most)} |")
    peaks: dict[str, Memory] = {}
    for memory in results.memory:
        if memory.contestant != OURS or memory.work.startswith("index"):
            continue
        known = peaks.get(memory.work)
        if known is None or memory.bytes > known.bytes:
            peaks[memory.work] = memory
    for work, memory in peaks.items():
        allowed = MEMORY_BASE + MEMORY_A_NODE * memory.entries
        if work in ("pull", "load"):
            allowed = STORE_MEMORY
        if work.startswith("packed-"):
            allowed += PACKED_MEMORY_BASE - MEMORY_BASE
        cells = [figure(memory.bytes / MIB, " MiB"), "≤ " + figure(allowed / MIB, " MiB")]
        cells.append(verdict(memory.bytes, allowed))
        lines.append(f"| peak memory, {work} | {' | '.join(cells)} |")
    return "\n".join(lines)


def peak_memory(results: Results, contestants: Sequence[str]) -> str:
    """The table of peak memory in MiB: the greatest of all runs, a line for each work."""
    peaks: dict[str, dict[str, int]] = {}
    for memory in results.memory:
        row = peaks.setdefault(memory.work, {})
        row[memory.contestant] = max(row.get(memory.contestant, 0), memory.bytes)
    who = [name for name in contestants if any(name in row for row in peaks.values())]
    lines = [f"| work | {' | '.join(who)} |", "|---" * (len(who) + 1) + "|"]
    for work, row in peaks.items():
        cells = [figure(row[name] / MIB) if name in row else NOTHING for name in who]
        lines.append(f"| {work} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def markdown(about: Mapping[str, Any], results: Results) -> str:
    """The whole report. about: the fields that `scripts/bench` puts at the head of its JSON."""
    contestants = list(about["contestants"])
    quick = " **Quick sizes: these figures mean nothing.**" if about["quick"] else ""
    busy = "`stress-ng --cpu 2` beside it" if about["load"] else "nothing beside it"
    if about.get("packed"):
        limits = [packed_limits(results), absolute_limits(results, PACKED_SECONDS)]
    else:
        limits = [against_limits(results), store_limits(results), absolute_limits(results)]
    parts = [
        f"`{about['command']}`, {about['when']}: kernel {about['kernel']}, {about['cpus']} CPUs, "
        f"{about['disk']}, {about['runs']} interleaved runs, {busy}.{quick}",
        "### Limits, and what was found",
        "Ratios of medians, imgmount ÷ the other.",
        *limits,
        "### Every figure",
        every_figure(results, contestants),
        "### Peak memory of the daemon, MiB",
        "VmHWM of what serves the mount, the greatest of all runs; of index works: of the process.",
        peak_memory(results, contestants),
    ]
    if results.failures:
        parts += ["### Failures", "\n".join(
            f"- {f.work}, {f.contestant}, run {f.run}: {_one_line(f.reason)}"
            for f in results.failures
        )]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _one_line(text: str) -> str:
    return " ".join(text.split())[:400]


def spliced(page: str, name: str, text: str) -> str:
    """The page with the text between its markers of that name; without markers, only the text."""
    begin, end = f"<!-- begin {name} -->\n", f"<!-- end {name} -->"
    head, found, rest = page.partition(begin)
    _, closed, tail = rest.partition(end)
    return f"{head}{begin}\n{text}\n{end}{tail}" if found and closed else text
