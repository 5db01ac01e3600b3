"""Makes the interposer, the launcher and the scene once per session, and the cases' steps."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing

import pytest
from disk import ext4
from faultcases import fill, layers
from interposer import Interposer
from launcher import Launcher
from mounted import Command
from scene import Dump, Scene


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    base = tmp_path_factory.mktemp("faults")
    mask = os.umask(0o022)
    try:
        with ext4(base / "disk", 128) as made:
            disk = made.at
            with closing(Interposer(disk)) as faults:
                environment = Command(disk / "dirs").environment | faults.environment
                with closing(Launcher(environment, disk / "log")) as launcher:
                    scene = Scene(disk, launcher, faults, layers())
                    scene.prepare(fill)
                    yield scene
    finally:
        os.umask(mask)


@pytest.fixture(scope="session")
def before(scene: Scene) -> Dump:
    """The dump of the upper that every case starts from."""
    scene.fresh()
    return scene.seen("fast")
