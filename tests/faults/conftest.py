"""The interposer, the launcher and the scene, once a session; the cases' steps."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest
from faultcases import fill, layers
from interposer import Interposer
from launcher import Launcher
from mounted import Command
from scene import Dump, Scene


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    base = tmp_path_factory.mktemp("faults")
    faults = Interposer(base)
    environment = Command(base / "dirs").environment | faults.environment
    launcher = Launcher(environment, base / "log")
    mask = os.umask(0o022)
    try:
        made = Scene(base, launcher, faults, layers())
        made.prepare(fill)
        yield made
    finally:
        os.umask(mask)
        launcher.close()
        faults.close()
        shutil.rmtree(base)


@pytest.fixture(scope="session")
def before(scene: Scene) -> Dump:
    """What every case starts from."""
    scene.fresh()
    return scene.seen("fast")
