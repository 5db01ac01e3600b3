"""A command with directories of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from mounted import Command


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path)
