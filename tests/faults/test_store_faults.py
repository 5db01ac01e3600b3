"""Rules S1 to S5 of fusemount/store/layout.py: a verb that is killed, or fails, at any step.

Each case runs once to count the system calls by which it changes the store (or the archive that it
writes).  Then, for each of these calls, the process is killed before it, or the call fails, each
time over a fresh copy.  Afterwards:

    F1  verify finds no mismatch.
    F2  Names and images are as before the command or as after it.
    F3  The same command succeeds, and then everything is as without the fault.
    F4  prune leaves no file that is not needed: no part, no lease, no orphan.
    F5  A command that fails prints one line, and has an exit code of its own.

A deterministic share of the calls is tried; all of them if FAULTS=all.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from interposer import Action, Call, Class, Interposer
from storecases import CASES, Case, fill, state
from storerunner import Ended, Runner
from storing import checked, clean

from fusemount.errors import NoSpace
from fusemount.store import Store
from fusemount.store.layout import names_in
from fusemount.store.removal import prune

THOROUGH = os.environ.get("FAULTS") == "all"
KILLED_OF, FAILED_OF = 7, 9  # of this many calls, one is tried
_THEN = {errno.ENOSPC: Class.SPACE, errno.EIO: Class.NONE}


class Place:
    """A directory that cases change, and its files before."""

    def __init__(self, base: Path, faults: Interposer, runner: Runner) -> None:
        self.faults, self._runner = faults, runner
        self._template, self.here = base / "template", base / "here"
        fill(self._template)

    def fresh(self) -> None:
        shutil.rmtree(self.here, ignore_errors=True)
        shutil.copytree(self._template, self.here)

    def keep(self) -> None:
        """From now on, cases start from the files that are in the directory now."""
        shutil.rmtree(self._template)
        shutil.copytree(self.here, self._template)

    def run(self, case: Case) -> Ended:
        words = {"ROOT": str(self.here / case.root)}
        return self._runner([words.get(w, w.replace("HERE", str(self.here))) for w in case.words])

    def counted(self, case: Case) -> tuple[list[Call], dict[str, str], dict[str, str]]:
        """(the calls of a run without a fault, the state before it, the state after it)."""
        self.fresh()
        before = self.seen(case)
        self.faults.watch(self.here / case.into if case.into else self.here)
        self.faults.arm()
        ended = self.run(case)
        calls = self.faults.disarm()
        assert ended.code == 0, ended.line
        return calls, before, self.seen(case)

    def store(self, case: Case) -> Store:
        """The directory that the case changes, if it is a store or a layout."""
        return Store(self.here / (case.into or case.root))

    def seen(self, case: Case) -> dict[str, str]:
        found = state(self.store(case))
        out = self.here / "out.tar"
        return found | ({"out.tar": str(out.stat().st_size)} if out.exists() else {})


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    base = tmp_path_factory.mktemp("store")
    with ExitStack() as stack:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", base], check=True)
        stack.callback(subprocess.run, ["umount", base], check=True)
        faults = stack.enter_context(closing(Interposer(base)))
        runner = Runner(dict(os.environ) | faults.environment, base / "log")
        yield Place(base, faults, stack.enter_context(closing(runner)))


def some(calls: list[Call], name: str, share: int) -> list[int]:
    """Numbers of the calls that are tried; all cases together try all kinds."""
    first = list(CASES).index(name)
    return [n for n in range(1, len(calls) + 1) if THOROUGH or (n + first) % share == 0]


def wrong_afterwards(
    place: Place, case: Case, before: dict[str, str], after: dict[str, str]
) -> Iterator[str]:
    store = place.store(case)
    found = place.seen(case)
    mismatches = checked(store).mismatches if store.layout.exists else []
    if mismatches:
        yield f"F1: {mismatches}"
    if found not in (before, after):
        yield f"F2: neither before nor after: {found}"
    again = place.run(case)
    gone = case.words[0] == "rm" and found == after and again.code == 3
    if again.code != 0 and not gone:
        yield f"F3: once more: {again}"
    if place.seen(case) != after:
        yield f"F3: once more: {place.seen(case)}"
    for root in {place.here / case.root, store.root}:
        if (root / "lock").exists():
            prune(Store(root))
            try:
                clean(Store(root))
            except AssertionError as error:
                yield f"F4: {error}"
            left = names_in(root / "leases") + names_in(root / "ingest")
            yield from (f"F4: {name} is left" for name in left)


@pytest.mark.parametrize("name", CASES)
def test_a_killed_verb_harms_nothing(place: Place, name: str) -> None:
    case, wrong = CASES[name], []
    calls, before, after = place.counted(case)
    assert calls
    for n in some(calls, name, KILLED_OF):
        place.fresh()
        place.faults.arm(at=n, action=Action.KILL_BEFORE)
        ended = place.run(case)
        place.faults.disarm()
        if place.faults.hit != (ended.code == -signal.SIGKILL):
            wrong.append(f"{n}: it ended with {ended}")
        told = list(wrong_afterwards(place, case, before, after))
        wrong += [f"killed before {n}, {calls[n - 1]}: {line}" for line in told]
    assert not wrong, "\n".join([*wrong, "the calls:", *map(str, calls)])


@pytest.mark.parametrize("name", CASES)
def test_a_failing_verb_harms_nothing(place: Place, name: str) -> None:
    case, wrong = CASES[name], []
    calls, before, after = place.counted(case)
    for n in some(calls, name, FAILED_OF):
        for number in _THEN if THOROUGH else [list(_THEN)[n % 2]]:
            place.fresh()
            place.faults.arm(at=n, action=Action.FAIL, error=number, then=_THEN[number])
            ended = place.run(case)
            place.faults.disarm()
            told = list(wrong_afterwards(place, case, before, after))
            full = number == errno.ENOSPC
            if ended.code and (ended.code != NoSpace.exit_code) == full:
                told.append(f"F5: {ended}")
            if ended.code == 70 or "\n" in ended.line:
                told.append(f"F5: {ended.line}")
            fault = f"{errno.errorcode[number]} of {n}, {calls[n - 1]}"
            wrong += [f"{fault}: {line}" for line in told]
    assert not wrong, "\n".join([*wrong, "the calls:", *map(str, calls)])
