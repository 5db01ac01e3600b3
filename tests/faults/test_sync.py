"""R 43: the order of the daemon's calls protects data from a crash of the whole machine.

S1  Data of a copy-up are synced before the call that makes them visible: the rename or link of
    the object, or the removal of its `metacopy`.
S2  fsync and fdatasync of a file, and fsync of a directory, reach the object in the upper.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import pytest
from faultcases import CASES, opened
from interposer import Call, Class
from scene import MODES, Scene

COPYING = [name for name in CASES if name.startswith(("write", "truncate", "extend", "rename and"))]


def unsynced(calls: Sequence[Call]) -> list[str]:
    """The calls that make unsynced data visible.

    Data that a user writes into a file that is copied up are for the user to sync.
    """
    wrong, dirty = [], set()
    below = {call.object for call in calls if call.name == "copy_file_range"}
    for call in calls:
        source, _, target = call.object.partition(" -> ")
        staged = source.startswith("work/work/")
        if (
            call.kind is Class.DATA
            and not call.name.startswith("ftruncate")
            and (staged or source in below)
        ):
            dirty.add(source)
        elif call.kind is Class.SYNC:
            dirty.discard(source)
        elif source in dirty and (target or call.name == "lremovexattr"):
            wrong.append(str(call))
            dirty.discard(source)
    return wrong


@pytest.mark.parametrize("mode", MODES)
def test_data_are_synced_before_they_are_seen(scene: Scene, mode: str) -> None:
    for name in COPYING:
        scene.fresh()
        with scene.mounted(mode) as at:
            scene.faults.arm()
            for step in CASES[name].steps:
                step(at)
            calls = scene.faults.disarm()
        assert not unsynced(calls), f"{name}:\n" + "\n".join(map(str, calls))


@pytest.mark.parametrize("mode", MODES)
def test_syncing_reaches_the_upper(scene: Scene, mode: str) -> None:
    scene.fresh()
    with scene.mounted(mode) as at:
        with opened(at / "newer") as file, opened(at / "updir", os.O_RDONLY) as directory:
            os.pwrite(file, b"NEW", 0)
            scene.faults.arm(classes=Class.SYNC)
            os.fdatasync(file)
            os.pwrite(file, b"NEWER", 0)
            os.fsync(file)
            os.fsync(directory)
            calls = [(call.name, call.object) for call in scene.faults.disarm()]
    assert calls == [
        ("fdatasync", "upper/newer"),
        ("fsync", "upper/newer"),
        ("fsync", "upper/updir"),
    ]
