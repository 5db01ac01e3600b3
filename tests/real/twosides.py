"""Law: the same steps on a mount and on a plain directory with its tree, answer by answer.

The plain directory lies on the file system of the temporary directory (ext4 or alike), which is the
oracle; its tree is copied from what the kernel's overlayfs shows of the unpacked layers.  A
remount takes everything that is open away on both sides; over it inode numbers stay, and at the
end the kernel's overlayfs shows the same tree from the upper that the mount wrote (R 26, R 46).
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import hypothesis
from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis import strategies as st
from imagewriter import docker_archive
from mounted import Command, mounted
from operations import DROP, DUMP, LONG_AGO, NOTHING, REMOUNT, Step, one_step
from oracle import differences, dump_directory, overlay, run, unpack
from workers import Workers

_DROP_CACHES = Path("/proc/sys/vm/drop_caches")


class TwoSides:
    """An image, the plain directory, and the processes of both sides; for many cases."""

    def __init__(self, base: Path, tars: Sequence[bytes], fastpath: bool) -> None:
        self._base, self._fastpath = base, fastpath
        self._command = Command(base / "dirs", fastpath)
        self._layers = [unpack(tar, base / f"layer{i}") for i, tar in enumerate(tars)]
        self._image = docker_archive(base / "image.tar", tars)
        with overlay(self._layers, base / "kernel") as at:
            run("cp", "-a", at, base / "plain")
        self._ours, self._theirs = Workers(), Workers()
        self.check(())  # both begin alike

    def end(self) -> None:
        self._ours.end()
        self._theirs.end()

    def check(self, steps: Sequence[Step]) -> None:
        """One case; raises AssertionError with the steps that led to a difference."""
        with tempfile.TemporaryDirectory(prefix="case-", dir=self._base) as directory:
            case = Case(Path(directory), self._ours, self._theirs)
            run("cp", "-a", self._base / "plain", case.plain)
            for part in split(steps):
                with self._mounted(case):
                    case.compare("mounted")
                    case.check_numbers()
                    case.perform(part)
                    case.compare("before unmounting")
                    case.note_numbers()
            with self._mounted(case):
                case.compare("mounted again")
                case.check_numbers()
            work = case.base / "kernel-work"
            work.mkdir()
            with overlay(self._layers, case.base / "kernel", case.upper, work) as at:
                case.compare("through the kernel's overlayfs", at)

    def run(self, *, cases: int, steps: int, seed: int | None = None) -> None:
        """So many cases of so many steps: the same ones every time, or those of a seed.

        Hypothesis draws; that a step needs other steps is nothing that it could know, so the
        failing case is made short here: by leaving steps out.
        """
        failed: list[list[Step]] = []

        @settings(
            max_examples=cases, derandomize=seed is None, database=None, deadline=None,
            phases=[Phase.generate], verbosity=Verbosity.quiet,
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(st.lists(one_step(self._fastpath), min_size=steps, max_size=steps))
        def holds(steps: list[Step]) -> None:
            if self._failure(steps):
                failed.append(steps)
                assert not failed

        try:
            (holds if seed is None else hypothesis.seed(seed)(holds))()
        except (AssertionError, hypothesis.errors.Flaky):
            short = shortest(failed[0], lambda steps: bool(self._failure(steps)))
            listed = "\n".join(map(str, short))
            raise AssertionError(f"{self._failure(short)}\n\nall of it:\n{listed}") from None

    def _failure(self, steps: Sequence[Step]) -> str:
        try:
            self.check(steps)
        except AssertionError as e:
            return str(e)
        return ""

    @contextmanager
    def _mounted(self, case: Case) -> Iterator[None]:
        with mounted(self._command, self._image, case.mount, "--upper", case.upper):
            yield


def split(steps: Sequence[Step]) -> list[list[Step]]:
    """What is done between two mounts."""
    parts: list[list[Step]] = [[]]
    for step in steps:
        if step.name == REMOUNT:
            parts.append([])
        elif step.name != NOTHING:
            parts[-1].append(step)
    return parts


class Case:
    def __init__(self, base: Path, ours: Workers, theirs: Workers) -> None:
        self.base, self._ours, self._theirs = base, ours, theirs
        self.mount, self.plain, self.upper = base / "mnt", base / "plain", base / "upper"
        self._done: list[Step] = []
        self._numbers: dict[str, int] = {}

    def perform(self, steps: Sequence[Step]) -> None:
        with self._ours.inside(self.mount), self._theirs.inside(self.plain):
            for step in steps:
                self._done.append(step)
                if step.name == DROP:
                    _DROP_CACHES.write_text("2")
                elif step.name == DUMP:
                    self.compare("between")
                else:
                    self._both(step)

    def _both(self, step: Step) -> None:
        self._ours.tell(step)
        self._theirs.tell(step)
        here, there = self._ours.answer(step), self._theirs.answer(step)
        assert here == there, f"{told(here)} is not {told(there)} after\n{self._tail()}"

    def compare(self, when: str, ours: Path | None = None) -> None:
        found = differences(comparable(ours or self.mount), comparable(self.plain))
        assert not found, f"{when}: ours, and the directory (theirs):\n{found}\n{self._tail()}"

    def note_numbers(self) -> None:
        self._numbers = self._read_numbers()

    def check_numbers(self) -> None:
        """R 26: each path has the inode number that it had before it was unmounted."""
        found = self._read_numbers()
        moved = [f"{p}: {found.get(p)}, not {n}" for p, n in self._numbers.items()
                 if found.get(p) != n]  # fmt: skip
        assert not self._numbers or not moved, f"inode numbers: {moved[:9]}\n{self._tail()}"

    def _read_numbers(self) -> dict[str, int]:
        paths = [self.mount]
        paths += [Path(at, name) for at, *names in os.walk(self.mount) for name in sum(names, [])]
        found = {str(path.relative_to(self.mount)): path.lstat() for path in paths}
        devices = {st.st_dev for st in found.values()}
        assert len(devices) == 1, f"one mount, many st_dev: {devices}"
        return {path: st.st_ino for path, st in found.items()}

    def _tail(self) -> str:
        return "\n".join(f"{step!s:.200}" for step in self._done[-60:])


def shortest(
    steps: Sequence[Step], fails: Callable[[Sequence[Step]], bool], seconds: float = 120
) -> Sequence[Step]:
    """A case that fails still, with none of its steps left that it can do without (or no time)."""
    until, size = time.monotonic() + seconds, max(1, len(steps) // 2)
    while time.monotonic() < until:
        place, before = 0, len(steps)
        while place < len(steps) and time.monotonic() < until:
            fewer = [*steps[:place], *steps[place + size :]]
            if fails(fewer):
                steps = fewer
            else:
                place += size
        if size == 1 and len(steps) == before:
            break
        size = max(1, size // 2)
    return steps


def told(answer: object) -> str:
    """Long bytes make no reader wiser: length, digest and beginning do."""
    if isinstance(answer, bytes) and len(answer) > 60:
        return f"{len(answer)} bytes {hashlib.sha256(answer).hexdigest()[:12]} {answer[:16]!r}..."
    return f"{answer!r:.600}"


def comparable(root: Path) -> list[bytes]:
    """Dump lines; times that no operation set are the clock's."""
    lines = []
    for line in dump_directory(root):
        fields = line.split(b" ")
        if float(fields[6]) >= LONG_AGO / 1e9:
            fields[6] = b"now"
        lines.append(b" ".join(fields))
    return lines
