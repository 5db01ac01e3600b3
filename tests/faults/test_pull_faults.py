"""The rules of test_store_faults.py, for a pull that is killed, or fails, at any step.

Layers are pulled at the same time, so the calls have no fixed order.  F1 to F5 hold at any call.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterator

import pytest
from hostile import Hostile, hostile
from imagewriter import ImageSpec, oci_files
from interposer import Action, Class
from servedimage import ServedImage
from storecases import BASE, SHARED, Case
from storing import layer
from test_store_faults import Place, place, wrong_afterwards

from fusemount.errors import NoSpace

__all__ = ["place"]  # a fixture of theirs

THOROUGH = os.environ.get("FAULTS") == "all"
KILLED_OF, FAILED_OF = 23, 29  # of this many calls, one is tried
_THEN = {errno.ENOSPC: Class.SPACE, errno.EIO: Class.NONE}
NAMES = {
    "into a new store": ("new", [BASE, layer("pulled"), layer("top")], "a"),
    "beside others": ("root", [SHARED, layer("a"), layer("pulled"), layer("top", 9000)], "b"),
    "of a moved name": ("root", [SHARED, layer("moved")], "moved"),
}


@pytest.fixture(scope="module")
def server() -> Iterator[Hostile]:
    with hostile() as found:
        yield found


@pytest.fixture(params=NAMES)
def case(request: pytest.FixtureRequest, server: Hostile, place: Place) -> Case:
    root, layers, repository = NAMES[request.param]
    spec = ImageSpec(layers, tags=("t",), compress="gzip")
    image = ServedImage(server, oci_files([spec]), repository, "t")
    if repository == "moved":
        place.fresh()
        old = ImageSpec([SHARED, layer("old")], tags=("t",), compress="gzip")
        before = ServedImage(server, oci_files([old]), repository, "t")
        assert place.run(Case(("pull", "ROOT", before.name))).code == 0
        place.keep()
        image.serve()
    return Case(("pull", "ROOT", image.name), root=root, into=root)


def test_a_killed_pull_harms_nothing(place: Place, case: Case) -> None:
    calls, before, after = place.counted(case)
    wrong = []
    for n in range(1, len(calls) + 1):
        if not THOROUGH and n % KILLED_OF:
            continue
        place.fresh()
        place.faults.arm(at=n, action=Action.KILL_BEFORE)
        ended = place.run(case)
        place.faults.disarm()
        if place.faults.hit != (ended.code == -signal.SIGKILL):
            wrong.append(f"{n}: it ended with {ended}")
        told = list(wrong_afterwards(place, case, before, after))
        wrong += [f"killed before {n}: {line}" for line in told]
    assert not wrong, "\n".join([*wrong, "the calls:", *map(str, calls)])


def test_a_failing_pull_harms_nothing(place: Place, case: Case) -> None:
    calls, before, after = place.counted(case)
    wrong = []
    for n in range(1, len(calls) + 1):
        if not THOROUGH and n % FAILED_OF:
            continue
        for number in _THEN if THOROUGH else [list(_THEN)[n // FAILED_OF % 2]]:
            place.fresh()
            place.faults.arm(at=n, action=Action.FAIL, error=number, then=_THEN[number])
            ended = place.run(case)
            calls_then = place.faults.disarm()
            told = list(wrong_afterwards(place, case, before, after))
            full = number == errno.ENOSPC
            if ended.code and (ended.code != NoSpace.exit_code) == full:
                told.append(f"F5: {ended}")
            if ended.code == 70 or "\n" in ended.line:
                told.append(f"F5: {ended.line}")
            what = calls_then[n - 1] if n <= len(calls_then) else "nothing"
            wrong += [f"{errno.errorcode[number]} of {n}, {what}: {line}" for line in told]
    assert not wrong, "\n".join([*wrong, "the calls:", *map(str, calls)])
