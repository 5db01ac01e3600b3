"""Runs the same steps on a mount and on a plain directory with the same tree.

Law: each answer must be the same on both sides.  A path keeps its inode number over a remount, and
at the end the kernel's overlayfs shows the same tree from the upper that the mount wrote (R 26,
R 46).

The plain directory is on the file system of the temporary directory (ext4 for example), which is
the oracle.  Its tree is a copy of the unpacked layers as the kernel's overlayfs shows them.  A
remount closes all descriptors on both sides.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import shortening
from imagewriter import docker_archive
from known import Known, Step
from mounted import Command, mounted
from operations import DROP, DUMP, REMOUNT
from oracle import differences, dump_directory, overlay, run, unpack
from systemcalls import LONG_AGO
from workers import Workers

_DROP_CACHES = Path("/proc/sys/vm/drop_caches")
Choose = Callable[[Known], Step]


class TwoSides:
    """An image, the plain directory, and the processes of both sides; it serves many cases."""

    def __init__(self, base: Path, tars: Sequence[bytes], fastpath: bool) -> None:
        self._base, self._command = base, Command(base / "dirs", fastpath)
        self._layers = [unpack(tar, base / f"layer{i}") for i, tar in enumerate(tars)]
        self._image = docker_archive(base / "image.tar", tars)
        with overlay(self._layers, base / "kernel") as at:
            run("cp", "-a", at, base / "plain")
        self._ours, self._theirs = Workers(), Workers()

    def end(self) -> None:
        self._ours.end()
        self._theirs.end()

    def check(self, choose: Choose, count: int) -> None:
        """Runs one case; raises AssertionError with a short list of steps that fails too."""
        case: list[Step] = []

        def chosen(known: Known) -> Iterator[Step]:
            for _ in range(count):
                case.append(choose(known))
                yield case[-1]

        if failure := self._failure(chosen):
            short = shortening.shortest(case, lambda steps: bool(self.failure_of(steps)))
            again = self.failure_of(short) or "(it does not fail a second time)"
            listed = "\n".join(map(str, short))
            raise AssertionError(f"{failure}\n\nshorter: {again}\n\nall of it:\n{listed}")

    def failure_of(self, steps: Sequence[Step]) -> str:
        """Runs the steps; returns the first difference, or "" if there is none."""
        return self._failure(lambda _: iter(steps))

    def _failure(self, choose: Callable[[Known], Iterator[Step]]) -> str:
        try:
            with tempfile.TemporaryDirectory(prefix="case-", dir=self._base) as directory:
                self._run(Case(Path(directory), self._ours, self._theirs), choose)
        except AssertionError as e:
            return str(e)
        return ""

    def _mounted(self, case: Case) -> AbstractContextManager[Path]:
        words = ("--upper", case.upper, "-o", "suid,dev")
        return mounted(self._command, self._image, case.mount, *words)

    def _run(self, case: Case, choose: Callable[[Known], Iterator[Step]]) -> None:
        run("cp", "-a", self._base / "plain", case.plain)
        steps = choose(case.known)
        going_on = True
        while going_on:
            with self._mounted(case):
                case.compare("mounted")
                case.check_numbers()
                going_on = case.perform(steps)
                case.compare("before unmounting")
                case.note_numbers()
        with self._mounted(case):
            case.compare("mounted again")
            case.check_numbers()
        work = case.base / "kernel-work"
        work.mkdir()
        with overlay(self._layers, case.base / "kernel", case.upper, work) as at:
            case.compare("through the kernel's overlayfs", at)


class Case:
    def __init__(self, base: Path, ours: Workers, theirs: Workers) -> None:
        self.base, self._ours, self._theirs = base, ours, theirs
        self.mount, self.plain, self.upper = base / "mnt", base / "plain", base / "upper"
        self.known = Known(self.plain)
        self._done: list[Step] = []
        self._numbers: dict[str, int] = {}

    def perform(self, steps: Iterator[Step]) -> bool:
        """Carries out the steps up to the next remount; returns whether there is one."""
        self.known.forget()
        with ExitStack() as stack:
            stack.enter_context(self._ours.inside(self.mount))
            stack.enter_context(self._theirs.inside(self.plain))
            for step in steps:
                self._done.append(step)
                if step.name == REMOUNT:
                    return True
                if step.name == DROP:
                    _DROP_CACHES.write_text("2")
                elif step.name == DUMP:
                    self.compare("between")
                else:
                    self._both(step)
        return False

    def _both(self, step: Step) -> None:
        self._ours.tell(step)
        self._theirs.tell(step)
        here, there = self._ours.answer(step), self._theirs.answer(step)
        assert here == there, f"{told(here)} is not {told(there)} after\n{self._tail()}"
        self.known.learn(step, there)

    def compare(self, when: str, ours: Path | None = None) -> None:
        found = differences(comparable(ours or self.mount), comparable(self.plain))
        assert not found, f"{when}: ours, and the directory (theirs):\n{found}\n{self._tail()}"

    def note_numbers(self) -> None:
        self._numbers = self._read_numbers()

    def check_numbers(self) -> None:
        """R 26: each path has the same inode number as before the unmount."""
        found = self._read_numbers()
        moved = [f"{p}: {found.get(p)}, not {n}" for p, n in self._numbers.items()
                 if found.get(p) != n]  # fmt: skip
        assert not self._numbers or not moved, f"inode numbers: {moved[:9]}\n{self._tail()}"

    def _read_numbers(self) -> dict[str, int]:
        paths = [self.mount]
        for at, directories, files in os.walk(self.mount):
            paths += [Path(at, name) for name in (*directories, *files)]
        found = {str(path.relative_to(self.mount)): path.lstat() for path in paths}
        devices = {st.st_dev for st in found.values()}
        assert len(devices) == 1, f"one mount, many st_dev: {devices}"
        return {path: st.st_ino for path, st in found.items()}

    def _tail(self) -> str:
        return "\n".join(f"{step!s:.200}" for step in self._done[-30:])


def told(answer: object) -> str:
    """The answer for a message; of long bytes the length, the digest and the beginning."""
    if isinstance(answer, bytes) and len(answer) > 60:
        return f"{len(answer)} bytes {hashlib.sha256(answer).hexdigest()[:12]} {answer[:16]!r}..."
    return f"{answer!r:.600}"


def comparable(root: Path) -> list[bytes]:
    """Dump lines without times that cannot be compared: those that no operation set come from the
    clock, and of writes to a fifo the kernel does not tell FUSE."""
    lines = []
    for line in dump_directory(root):
        fields = line.split(b" ")
        if fields[1] == b"p" or float(fields[6]) >= LONG_AGO / 1e9:
            fields[6] = b"now"
        lines.append(b" ".join(fields))
    return lines
