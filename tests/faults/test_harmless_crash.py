"""R 43 of uppers that are kept harmless (rootfs/harmless.py), after a kill at any step.

The upper has no file with power over the host, and the mount shows no more power than before or
after the operation.  As test_crash.py, but without the kernel's overlayfs, which does not interpret
the marks.  A change of two steps may be found between them: set-id bits are taken away before the
rest of a change, and given after it.
"""

from __future__ import annotations

import errno
import os
import signal

import pytest
from faultcases import (
    Case,
    as_somebody,
    chmod,
    chown,
    make,
    mknod,
    removexattr,
    setxattr,
    write,
)
from interposer import Action, Class
from mounted import powerful
from scene import HARMLESS, Scene, unlike
from test_crash import Allowed, places_to_die, run, states_of
from test_errors import run as run_to_error

_CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")
_CAP = "security.capability"
HARMLESS_CASES = [
    Case("chmod an upper file", (chmod("newer", 0o6711),), requests=(chmod("newer", 0o711),)),
    Case("chmod a set-id file", (chmod("meta", 0o2755),),
         requests=(chmod("meta", 0o711), chmod("meta", 0o755))),
    Case("chmod takes the bits", (chmod("meta", 0o700),), requests=(chmod("meta", 0o711),)),
    Case("chown a set-id file", (chown("meta", 7, 8),), requests=(chmod("meta", 0o711),)),
    Case("chown a privileged file", (chown("suid", 7, 8),),
         requests=(removexattr("suid", _CAP), chmod("suid", 0o755))),
    Case("create under a default ACL", (make("updir/fresh", 0o4755),)),
    Case("mknod", (mknod("fresh", 0o060640, os.makedev(7, 8)),)),
    Case("a capability", (setxattr("newer", _CAP, _CAPABILITY), removexattr("suid", _CAP))),
    Case("somebody writes",
         (chmod("newer", 0o6777), as_somebody(write("newer", b"x"))), loose=(b"/newer",),
         requests=(chmod("newer", 0o777),)),
]  # fmt: skip


@pytest.mark.parametrize("case", HARMLESS_CASES, ids=lambda case: case.name)
def test_no_step_gives_power(scene: Scene, case: Case) -> None:
    scene.fresh()
    before = scene.seen(HARMLESS)
    states, calls = states_of(scene, case.steps, HARMLESS)
    between = states_of(scene, case.requests, HARMLESS)[0]
    allowed = Allowed(case, [before, *states], between)
    wrong = []
    for n, action in places_to_die(calls):
        if told := dies(scene, allowed, n, action):
            wrong.append(f"killed at {calls[n - 1]}:\n{told}")
    assert not wrong, "\n".join([*wrong, "the calls:", *map(str, calls)])


def dies(scene: Scene, allowed: Allowed, n: int, action: Action) -> str:
    scene.fresh()
    with scene.mounted(HARMLESS) as at:
        scene.faults.arm(at=n, action=action)
        answered = run(scene, allowed.case.steps, at)
    if scene.faults.hit != (scene.ended == -signal.SIGKILL):
        return f"it ended with {scene.ended}"
    if found := powerful(scene.upper) + powerful(scene.work):
        return f"on the disk: {found}"
    return allowed.unlike(scene.dump_of_upper(), answered)


@pytest.mark.parametrize("case", HARMLESS_CASES[:4], ids=lambda case: case.name)
def test_what_failed_has_changed_nothing(scene: Scene, case: Case) -> None:
    """E1 and E2 of test_errors.py, for one error at each call."""
    scene.fresh()
    before = scene.seen(HARMLESS)
    states, calls = states_of(scene, case.steps, HARMLESS)
    for n, call in enumerate(calls, start=1):
        scene.fresh()
        with scene.mounted(HARMLESS) as at:
            scene.faults.arm(at=n, action=Action.FAIL, error=errno.EIO, then=Class.NONE)
            done, told = run_to_error(case.steps, at)
            scene.faults.disarm()
            assert told in (0, errno.EIO)
            wanted = [before, *states][done]
            assert not unlike(scene.dump(at), wanted), call
            assert not unlike(scene.dump_of_copy(), wanted), call
