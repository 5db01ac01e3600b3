"""R 43: ENOSPC, EDQUOT, EIO and EROFS of the upper reach the caller, and the mount goes on.

Each call by which a case changes the upper or the work directory is made to fail. What holds:

    E1  The caller gets the upper's own errno.  Or the operation succeeds, if it does not need the
        call, or if the call was repeated and succeeded.
    E2  A failed operation has changed nothing in the mount and in the upper; the files of the
        layers are undamaged.
    E3  When the fault is gone, the same operation succeeds.  Afterwards the mount, the next mount
        and the kernel's overlayfs show the same as without any fault.

Until the fault is gone, a full disk (ENOSPC, EDQUOT) refuses each call that needs space, and a
read-only one each change.  EIO comes once.  Each case tries some of its calls, each with one errno;
FAULTS=all tries all calls with all of these.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from faultcases import CASES, Case, Step
from interposer import Action, Call, Class
from scene import MODES, Dump, Scene, unlike
from test_crash import THOROUGH, states_of

THEN = {
    errno.ENOSPC: Class.SPACE,
    errno.EIO: Class.NONE,
    errno.EDQUOT: Class.SPACE,
    errno.EROFS: Class.CHANGES & ~Class.SYNC,
}
EVERY = 3  # of this many calls of a case, one is tried


def faults(calls: Sequence[Call], first: int) -> Iterator[tuple[int, int]]:
    """(number of the call, errno), chosen by the case: all cases together try everything."""
    for n in range(1, len(calls) + 1):
        call = str(calls[n - 1])
        # removing and setting times need no space
        small = "removexattr" in call or "utimens" in call
        numbers = [e for e in THEN if not (small and THEN[e] == Class.SPACE)]
        if THOROUGH:
            yield from ((n, number) for number in numbers)
        elif (n + first) % EVERY == 0 or len(calls) == 1:
            yield n, numbers[(n + first) // EVERY % len(numbers)]


def without(dump: Dump, case: Case) -> Dump:
    """The dump without files whose write failed: data that the kernel could not write back stay in
    its cache, so what they show is not defined."""
    return {path: fields for path, fields in dump.items() if path not in case.loose}


def run(steps: Sequence[Step], at: Path) -> tuple[int, int]:
    """How many steps succeeded, and the errno of the one that failed, or 0."""
    for done, step in enumerate(steps):
        try:
            step(at)
        except OSError as e:
            return done, e.errno or 0
    return len(steps), 0


@pytest.mark.parametrize("name", CASES)
def test_an_error_of_the_upper_reaches_the_caller(scene: Scene, before: Dump, name: str) -> None:
    case, wrong, first = CASES[name], [], list(CASES).index(name)
    modes = list(MODES) if THOROUGH else [list(MODES)[first % 2]]
    for mode in modes:
        states, calls = states_of(scene, case.steps, mode)
        between = states_of(scene, case.requests, mode)[0]
        for n, number in faults(calls, first):
            told = fails(scene, case, mode, [before, *states], between, n, number)
            if told:
                wrong.append(f"{mode}: {errno.errorcode[number]} of {calls[n - 1]}:\n{told}")
    assert not wrong, "\n".join([*wrong, "the calls:", *map(str, calls)])


def fails(
    scene: Scene,
    case: Case,
    mode: str,
    states: Sequence[Dump],
    between: Sequence[Dump],
    n: int,
    number: int,
) -> str:
    scene.fresh()
    wrong = []
    with scene.mounted(mode) as at:
        scene.faults.arm(at=n, action=Action.FAIL, error=number, then=THEN[number])
        done, told = run(case.steps, at)
        scene.faults.disarm()
        # For a failed write-back, the kernel remembers only ENOSPC or EIO.
        if told not in (0, number) and not (case.loose and told == errno.EIO):
            wrong.append(f"E1: the caller was told {errno.errorcode[told]}")
        allowed = [without(dump, case) for dump in (states[done], *between)]
        for who, dump in (("the mount", scene.dump(at)), ("the upper", scene.dump_of_copy())):
            found = without(dump, case)
            difference = min((unlike(found, state) for state in allowed), key=len)
            if difference:
                wrong.append(f"E2: {who} shows after {done} steps and error {told}:\n{difference}")
        _, again = run(case.steps[done:], at)
        if again:
            wrong.append(f"E3: once the fault is gone: {errno.errorcode[again]}")
        elif difference := unlike(scene.dump(at), states[-1], case.loose):
            wrong.append(f"E3: the mount shows\n{difference}")
    if not wrong:
        for who, dump in (
            ("the next mount", scene.dump_of_upper()),
            ("the kernel's overlayfs", scene.kernel_dump()),
        ):
            if difference := unlike(dump, states[-1], case.loose):
                wrong.append(f"E3: {who} shows\n{difference}")
    return "\n".join(wrong)
