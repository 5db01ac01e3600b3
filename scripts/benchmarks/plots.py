"""Draws PNG files from the JSON of `scripts/bench`, and prints their names.

Law: it is a program of its own, run by a Python that has matplotlib:
`python -m benchmarks.plots JSON DIRECTORY PREFIX`.

PREFIX-ratios.png   imgmount ÷ overlayfs and ÷ fuse-overlayfs, a row per measure, limits as marks
PREFIX-times.png    seconds of every contestant, a panel per measure: median, minimum, maximum
PREFIX-memory.png   peak memory of the daemons, a group of bars per work
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from pathlib import Path
from typing import Any

import matplotlib  # type: ignore[import-not-found,unused-ignore]

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # type: ignore[import-not-found,unused-ignore]

from benchmarks.report import LIMITS, MIB, OURS, ratio, times
from benchmarks.running import Memory, Results, Run

COLOURS = {
    OURS: "#0072b2",
    "overlayfs": "#e69f00",
    "ext4": "#999999",
    "fuse-overlayfs": "#d55e00",
    "squashfuse": "#009e73",
    "ratarmount": "#cc79a7",
}
COMPARED = ("overlayfs", "fuse-overlayfs")
COLUMNS = 4


def colour(name: str) -> str:
    return COLOURS.get(name, "#56b4e9")


def ratios(results: Results, title: str, path: Path) -> None:
    rows = times(results.runs)
    measures = [m for m, row in rows.items() if any(ratio(row, other) for other in COMPARED)]
    figure, axes = plt.subplots(figsize=(9, 1.2 + 0.34 * len(measures)), layout="constrained")
    limits = {limit.measure: (limit.overlayfs, limit.fuse_overlayfs) for limit in LIMITS}
    for i, other in enumerate(COMPARED):
        at = [y + 0.4 * i - 0.2 for y in range(len(measures))]
        found = [ratio(rows[m], other) or math.nan for m in measures]
        axes.barh(at, [v - 1 for v in found], 0.38, left=1, color=colour(other),
                  label=f"imgmount ÷ {other}")  # fmt: skip
        marks = [limits.get(m, (None, None))[i] or math.nan for m in measures]
        axes.plot(marks, at, "k|", markersize=11, label="limit" if i == 0 else None)
    _logarithmic(axes)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks(range(len(measures)), measures)
    axes.invert_yaxis()
    axes.set_xlabel("ratio of median times (left of 1: imgmount is faster)")
    axes.legend(loc="best", fontsize=8)
    _save(figure, title, path)


def seconds(results: Results, contestants: list[str], title: str, path: Path) -> None:
    rows = times(results.runs)
    lines = max(1, math.ceil(len(rows) / COLUMNS))
    figure, grid = plt.subplots(
        lines, COLUMNS, figsize=(14, 1.7 * lines), squeeze=False, layout="constrained"
    )
    panels = list(grid.flat)
    for axes, (measure, row) in zip(panels, rows.items(), strict=False):
        shown = [name for name in contestants if name in row]
        medians = [statistics.median(row[name]) for name in shown]
        reach = [
            [m - min(row[name]) for m, name in zip(medians, shown, strict=True)],
            [max(row[name]) - m for m, name in zip(medians, shown, strict=True)],
        ]
        axes.barh(shown, medians, color=[colour(n) for n in shown], xerr=reach)
        axes.set_title(measure, fontsize=8)
        axes.tick_params(labelsize=7)
        axes.locator_params(axis="x", nbins=5)
        axes.invert_yaxis()
    for axes in panels[len(rows) :]:
        axes.set_axis_off()
    _save(figure, f"{title}: seconds, median and range", path)


def memory(results: Results, contestants: list[str], title: str, path: Path) -> None:
    works = list(dict.fromkeys(m.work for m in results.memory))
    shown = [n for n in contestants if any(m.contestant == n for m in results.memory)]
    figure, axes = plt.subplots(figsize=(9, 1.2 + 0.45 * len(works)), layout="constrained")
    height = 0.8 / max(1, len(shown))
    for i, name in enumerate(shown):
        peaks = [
            max([m.bytes for m in results.memory if (m.work, m.contestant) == (w, name)], default=0)
            for w in works
        ]
        at = [y + height * (i - (len(shown) - 1) / 2) for y in range(len(works))]
        axes.barh(at, [p / MIB for p in peaks], height, color=colour(name), label=name)
    axes.set_yticks(range(len(works)), works)
    axes.invert_yaxis()
    _logarithmic(axes)
    axes.set_xlabel("peak memory of the daemon (VmHWM), MiB")
    axes.legend(fontsize=8)
    _save(figure, title, path)


def _logarithmic(axes: Any) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, place: f"{value:g}")
    axes.margins(y=0.01)
    axes.grid(axis="x", linewidth=0.4)
    axes.set_axisbelow(True)


def _save(figure: Any, title: str, path: Path) -> None:
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)
    print(path)


def main(source: str, directory: str, prefix: str) -> None:
    kept = json.loads(Path(source).read_text())
    found = kept["results"]
    results = Results([Run(**r) for r in found["runs"]], [Memory(**m) for m in found["memory"]])
    title = f"imgmount, {kept['when'][:10]}, kernel {kept['kernel']}, {kept['cpus']} CPUs"
    if kept["load"]:
        title += ", under load"
    if kept["quick"]:
        title += " (quick sizes: meaningless)"
    contestants, where = list(kept["contestants"]), Path(directory)
    where.mkdir(parents=True, exist_ok=True)
    ratios(results, title, where / f"{prefix}-ratios.png")
    seconds(results, contestants, title, where / f"{prefix}-times.png")
    if results.memory:
        memory(results, contestants, title, where / f"{prefix}-memory.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
