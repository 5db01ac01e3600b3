"""R 25-42, R 46: the same random operations on a mount and on a plain directory (twosides.py).

CI runs the cases that hypothesis derives from this file's text, the same ones every time;
`make soak` runs others, for as long as one likes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from mixedtree import layers
from twosides import TwoSides

CASES, STEPS = 12, 250


@pytest.fixture(scope="module", params=[True, False], ids=["fast", "pyfuse3"])
def sides(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TwoSides]:
    base = tmp_path_factory.mktemp("sides")
    sides = TwoSides(base, layers(), bool(request.param))
    yield sides
    sides.end()


def test_r33_answers_are_a_local_file_systems(sides: TwoSides) -> None:
    sides.run(cases=CASES, steps=STEPS, seed=None)
