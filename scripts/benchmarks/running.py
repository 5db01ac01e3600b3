"""Runs all visits.

Law: all contestants do one work in turn (A B C A B C ...) before the next work begins, so that a
machine that becomes slower becomes slower for all.

A visit that fails is reported, its contestant does not do that work again, and the others go on.
After an interruption the report has all visits that were complete.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from types import FrameType
from typing import Any, TypeVar

from benchmarks import mounting
from benchmarks.contestants import Contestant
from benchmarks.indexing import INDEX_WORKS, IndexWork
from benchmarks.packed import PACKED_WORKS, PackedWork
from benchmarks.storing import STORE_WORKS, StoreWork
from benchmarks.tools import Failure
from benchmarks.works import WORKS, Bench, Work

AnyWork = Work | IndexWork | StoreWork | PackedWork
ALL_WORKS: list[AnyWork] = [*INDEX_WORKS, *WORKS, *STORE_WORKS, *PACKED_WORKS]
T = TypeVar("T")


@dataclass(frozen=True)
class Run:
    """One figure: the seconds of one measure in one visit."""

    work: str
    measure: str
    contestant: str
    run: int
    seconds: float


@dataclass(frozen=True)
class Memory:
    """Peak memory of the serving processes in one visit, in bytes; entries: about how many nodes
    there were."""

    work: str
    contestant: str
    run: int
    bytes: int
    entries: int


@dataclass(frozen=True)
class Share:
    """What was taken on disk in one visit, as a share: of what, the measure says."""

    work: str
    measure: str
    contestant: str
    run: int
    share: float


@dataclass(frozen=True)
class Failed:
    work: str
    contestant: str
    run: int
    reason: str


@dataclass
class Results:
    runs: list[Run] = field(default_factory=list)
    memory: list[Memory] = field(default_factory=list)
    failures: list[Failed] = field(default_factory=list)
    shares: list[Share] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def turns(contestants: Sequence[T], runs: int) -> Iterator[tuple[int, T]]:
    """(run number, contestant): each run from 1 on has every contestant, in the order given."""
    for run in range(1, runs + 1):
        for contestant in contestants:
            yield run, contestant


def perform(
    works: Sequence[AnyWork], contestants: Sequence[Contestant], runs: int, bench: Bench,
    results: Results,
) -> None:  # fmt: skip
    """Runs all works; adds each figure to results at once, so that an interruption loses none."""
    for number, work in enumerate(works, 1):
        say(f"[{number}/{len(works)}] {work.name}")
        able = _prepared(work, contestants, bench, results)
        bench.images[work.image].warm()
        lost: set[str] = set()
        for run, contestant in turns(able, runs):
            if contestant.name in lost:
                continue
            try:
                found = work.visit(contestant, bench)
            except (Failure, OSError, ValueError) as error:
                lost.add(contestant.name)
                _note(results, Failed(work.name, contestant.name, run, str(error)))
                continue
            for measure, seconds in found.seconds.items():
                results.runs.append(Run(work.name, measure, contestant.name, run, seconds))
                say(f"    {run} {contestant.name:18} {measure:36} {seconds:10.4f} s")
            for measure, share in found.shares.items():
                results.shares.append(Share(work.name, measure, contestant.name, run, share))
            if found.memory and isinstance(work, StoreWork):
                results.memory.append(Memory(work.name, contestant.name, run, found.memory, 0))
            elif found.memory:
                entries = bench.images[work.image].entries + found.made
                results.memory.append(
                    Memory(work.name, contestant.name, run, found.memory, entries)
                )


def _prepared(
    work: AnyWork, contestants: Sequence[Contestant], bench: Bench, results: Results
) -> list[Contestant]:
    """The contestants that can do the work, after they have prepared the image."""
    able = []
    image = bench.images[work.image]
    _ = image.tar
    if work.name == "untar":
        _ = bench.images["untar"].tar
        bench.images["untar"].warm()
    for contestant in contestants:
        if not work.takes(contestant):
            continue
        try:
            if not isinstance(work, IndexWork | StoreWork | PackedWork):
                contestant.prepare(image)
            able.append(contestant)
        except (Failure, OSError) as error:
            _note(results, Failed(work.name, contestant.name, 0, str(error)))
    return able


def _note(results: Results, failure: Failed) -> None:
    results.failures.append(failure)
    say(f"    {failure.contestant}: FAILED: {failure.reason}")


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@contextmanager
def load(wanted: bool) -> Iterator[None]:
    """Runs `stress-ng --cpu 2` beside the block, if asked to."""
    if not wanted:
        yield
        return
    try:
        child = subprocess.Popen(
            ["stress-ng", "--cpu", "2", "--quiet"], stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        raise Failure(f"stress-ng: {error.strerror}") from error
    try:
        yield
    finally:
        child.terminate()  # stress-ng ends its workers
        child.wait()


@contextmanager
def tidy(bench: Bench) -> Iterator[None]:
    """Removes all mounts before and after the block, and turns SIGTERM into KeyboardInterrupt.

    The mounts before are those of an earlier run that was killed.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    visits = bench.base / "visits"
    kept: Callable[[int, FrameType | None], Any] | int | None
    kept = signal.signal(signal.SIGTERM, interrupt)
    try:
        _take_down(bench)
        yield
    finally:
        _take_down(bench)
        if visits.exists():
            visits.rmdir()
        signal.signal(signal.SIGTERM, kept)


def _take_down(bench: Bench) -> None:
    visits = bench.base / "visits"
    for place in [*visits.glob("*"), *bench.base.glob("*/first-mount"),
                  bench.base / "first-mount"]:  # fmt: skip
        mounting.clear(place)
