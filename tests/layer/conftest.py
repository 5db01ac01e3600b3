"""Law: the fixture of this folder; it checks that no descriptor and no temporary file is left."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from layersetting import Setting

from fusemount.settings import Directories


@pytest.fixture
def setting(tmp_path: Path) -> Iterator[Setting]:
    before = len(os.listdir("/proc/self/fd"))
    root = tmp_path / "kept"
    made = Setting(Directories(root / "cache", root / "state", root / "run"))
    yield made
    for layer in made.opened:
        layer.close()
    assert len(os.listdir("/proc/self/fd")) == before
    for directory, _, names in os.walk(root):
        assert not [n for n in names if n.startswith(".")], directory
