"""Runs every seed, and every input that was found, through its Python target once; and checks that
the binary seeds are those of makeseeds.py.

`make -C native/fuzz check` does so for the C targets.
"""

from __future__ import annotations

from pathlib import Path

import makeseeds
import pytest
from targets import TARGETS

HERE = Path(__file__).parent
INPUTS = [
    path
    for target in TARGETS
    for kind in ("seeds", "finds")
    for path in sorted((HERE / kind / target).glob("*"))
]


@pytest.mark.parametrize("path", INPUTS, ids=lambda p: f"{p.parent.name}-{p.name}")
def test_input(path: Path) -> None:
    TARGETS[path.parent.name](path.read_bytes())


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_has_seeds(target: str) -> None:
    assert any(path.parent.name == target and path.parent.parent.name == "seeds" for path in INPUTS)


@pytest.mark.parametrize("target", makeseeds.TARGETS)
def test_seeds_are_what_makeseeds_writes(target: str) -> None:
    kept = {path.name: path.read_bytes() for path in (HERE / "seeds" / target).iterdir()}
    assert kept == makeseeds.TARGETS[target](), "run tests/fuzz/makeseeds.py"
