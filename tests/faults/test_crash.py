"""R 43: a daemon that is killed at any step of an operation leaves a consistent upper.

Each case runs once to count the system calls by which the daemon changes the upper and the work
directory.  Then, for each of these calls, the daemon is killed before it, over a fresh copy of the
upper; and once after the last call.  Afterwards:

    C1  The next mount shows the state before or after the operation.  If the caller got an answer,
        it shows the state after it.
    C2  The kernel's overlayfs accepts the upper and shows the same.
    C3  The next mount leaves nothing of the killed one in the work directory.
    C4  Data that were written and synced before are there (the upper that a case starts from).

One difference is allowed: the time of a directory into which an object was moved from the work
directory (scene.unlike).

Calls on only the work directory change nothing that is visible, so only the last of several in a
row is tried, unless FAULTS=all.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from faultcases import CASES, Case, Step
from interposer import Action, Call, Class
from scene import MODES, Dump, Scene, unlike

DEAD = (errno.ENOTCONN, errno.ECONNABORTED, errno.EIO)
THOROUGH = os.environ.get("FAULTS") == "all"


def run(scene: Scene, steps: Sequence[Step], at: Path) -> int:
    """Runs the steps.  How many were answered before the daemon died."""
    for done, step in enumerate(steps):
        try:
            step(at)
        except OSError as e:
            if e.errno in DEAD and scene.dies():
                return done
            raise
    return len(steps)


def states_of(scene: Scene, steps: Sequence[Step], mode: str) -> tuple[list[Dump], list[Call]]:
    """What a mount shows after each step, and the calls up to there."""
    states, calls = [], []
    scene.fresh()
    with scene.mounted(mode) as at:
        for step in steps:
            scene.faults.arm()
            step(at)
            calls += scene.faults.disarm()
            states.append(scene.dump(at))
    return states, calls


def in_work_alone(call: Call) -> bool:
    return all(part.startswith("work/") for part in call.object.split(" -> "))


def places_to_die(calls: Sequence[Call]) -> list[tuple[int, Action]]:
    places = [
        (n, Action.KILL_BEFORE)
        for n, call in enumerate(calls, start=1)
        if THOROUGH or not in_work_alone(call)
    ]
    # A file without a name is removed when the kernel forgets it, at no known time.
    last = max(
        n for n, call in enumerate(calls, start=1) if not call.object.startswith("work/work/orphan")
    )
    return [*places, (last, Action.KILL_AFTER)]


@pytest.mark.parametrize("name", CASES)
def test_an_operation_is_whole_or_not_at_all(scene: Scene, before: Dump, name: str) -> None:
    case, tried, wrong = CASES[name], [], []
    for mode in MODES:
        states, calls = states_of(scene, case.steps, mode)
        if calls in tried and not THOROUGH:
            continue  # the same calls leave the same upper
        tried.append(calls)
        allowed = Allowed(case, [before, *states], states_of(scene, case.requests, mode)[0])
        for n, action in places_to_die(calls):
            if told := dies(scene, allowed, mode, n, action):
                when = "before" if action is Action.KILL_BEFORE else "after"
                wrong.append(f"{mode}: killed {when} {calls[n - 1]}:\n{told}")
    assert not wrong, "\n".join([*wrong, "the calls:", *map(str, tried[-1])])


@dataclass(frozen=True)
class Allowed:
    """Allowed dumps.  states: before the case and after each step; between: after each request."""

    case: Case
    states: list[Dump]
    between: list[Dump]

    def unlike(self, found: Dump, answered: int) -> str:
        wanted = [*self.states[answered : answered + 2], *self.between]
        told = [unlike(found, state, self.case.loose) for state in wanted]
        return min(told, key=len)


def dies(scene: Scene, allowed: Allowed, mode: str, n: int, action: Action) -> str:
    scene.fresh()
    with scene.mounted(mode) as at:
        scene.faults.arm(at=n, action=action)
        answered = run(scene, allowed.case.steps, at)
    if scene.faults.hit != (scene.ended == -signal.SIGKILL):
        return f"it ended with {scene.ended}"
    found = scene.seen(mode) if THOROUGH else scene.dump_of_upper()
    wrong = [f"neither old nor new:\n{told}"] if (told := allowed.unlike(found, answered)) else []
    if left := scene.left_in_work():
        wrong.append(f"left in the work directory: {left}")
    try:
        if kernel := unlike(scene.kernel_dump(), found):
            wrong.append("the kernel's overlayfs shows something else:\n" + kernel)
    except AssertionError as e:
        wrong.append(str(e))
    return "\n".join(wrong)


def test_what_is_counted(scene: Scene) -> None:
    """The interposer sees the calls of the daemon: otherwise these tests would try nothing."""
    scene.fresh()
    with scene.mounted("fast") as at:
        scene.faults.arm()
        run(scene, CASES["write to a lower file with hardlinks"].steps, at)
        kinds = {call.kind for call in scene.faults.disarm()}
    assert kinds == set(Class.CHANGES)
