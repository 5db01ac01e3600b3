"""Gives each test a store of its own, and checks that no descriptor stays open."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from fusemount.store import Store


def open_fds() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    before = open_fds()
    yield Store(tmp_path / "root", create=True)
    assert open_fds() == before
