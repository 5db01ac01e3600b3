"""R 43: a daemon that is killed at any step of an operation leaves a whole upper.

Each case runs once to count the system calls by which the daemon changes the upper and the work
directory; then, over a fresh copy of the upper for each of them, the daemon is killed before it,
and after the last one.  What holds afterwards:

    C1  Each operation is seen whole or not at all: the next mount shows what was before it or what
        is after it, and what is after it when its caller was answered.
    C2  The kernel's overlayfs takes the upper for its own and shows the same.
    C3  The next mount leaves nothing of the dead one in the work directory.
    C4  What was written before, and synced, is there (the upper that a case starts from).

Of that, one thing is let go: the time of a directory that something came into from the work
directory (scene.unlike).

Calls that touch nothing but the work directory change nothing that is seen, so of several in a row
only the last is tried, unless FAULTS=all.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
from faultcases import CASES, Case
from interposer import Action, Call, Class
from scene import MODES, Dump, Scene, unlike

DEAD = (errno.ENOTCONN, errno.ECONNABORTED, errno.EIO)
THOROUGH = os.environ.get("FAULTS") == "all"


def run(scene: Scene, case: Case, at: Path, states: list[Dump] | None = None) -> int:
    """How many steps were answered before the daemon died."""
    for done, step in enumerate(case.steps):
        try:
            step(at)
        except OSError as e:
            if e.errno in DEAD and scene.dies():
                return done
            raise
        if states is not None:
            states.append(scene.dump(at))
    return len(case.steps)


def in_work_alone(call: Call) -> bool:
    return all(part.startswith("work/") for part in call.object.split(" -> "))


def places_to_die(calls: Sequence[Call]) -> list[tuple[int, Action]]:
    places = [
        (n, Action.KILL_BEFORE)
        for n, call in enumerate(calls, start=1)
        if THOROUGH or not in_work_alone(call)
    ]
    return [*places, (len(calls), Action.KILL_AFTER)]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", CASES)
def test_an_operation_is_whole_or_not_at_all(
    scene: Scene, before: Dump, name: str, mode: str
) -> None:
    case = CASES[name]
    states = [before]
    scene.fresh()
    with scene.mounted(mode) as at:
        scene.faults.arm()
        run(scene, case, at)
        calls = scene.faults.disarm()
    scene.fresh()
    with scene.mounted(mode) as at:
        run(scene, case, at, states)
    wrong = [
        f"killed {'before' if action is Action.KILL_BEFORE else 'after'} {calls[n - 1]}:\n{told}"
        for n, action in places_to_die(calls)
        if (told := dies(scene, case, mode, states, n, action))
    ]
    assert not wrong, "\n".join([*wrong, "the calls:", *map(str, calls)])


def dies(
    scene: Scene, case: Case, mode: str, states: Sequence[Dump], n: int, action: Action
) -> str:
    scene.fresh()
    with scene.mounted(mode) as at:
        scene.faults.arm(at=n, action=action)
        answered = run(scene, case, at)
    if scene.ended != -signal.SIGKILL:
        return "it was not killed"
    found = scene.seen(mode) if THOROUGH else scene.dump_of_upper()
    allowed = states[answered : answered + 2]
    told = [unlike(found, state, case.loose) for state in allowed]
    wrong = [] if "" in told else [f"neither old nor new:\n{min(told, key=len)}"]
    if left := scene.left_in_work():
        wrong.append(f"left in the work directory: {left}")
    if kernel := unlike(scene.kernel_dump(), found):
        wrong.append("the kernel's overlayfs shows something else:\n" + kernel)
    return "\n".join(wrong)


def test_what_is_counted(scene: Scene) -> None:
    """The interposer sees what these tests are about: else they would try nothing."""
    scene.fresh()
    with scene.mounted("fast") as at:
        scene.faults.arm()
        run(scene, CASES["setxattr of a lower file with hardlinks"], at)
        kinds = {call.kind for call in scene.faults.disarm()}
    assert kinds == set(Class.CHANGES)
