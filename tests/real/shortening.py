"""Makes a failing case short by leaving steps out (delta debugging), within a time limit."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def shortest(
    steps: Sequence[T], fails: Callable[[Sequence[T]], bool], seconds: float = 120
) -> Sequence[T]:
    """A case that still fails and needs all of its steps, or the best one when the time is over."""
    until, size = time.monotonic() + seconds, max(1, len(steps) // 2)
    while time.monotonic() < until:
        place, before = 0, len(steps)
        while place < len(steps) and time.monotonic() < until:
            fewer = [*steps[:place], *steps[place + size :]]
            if fails(fewer):
                steps = fewer
            else:
                place += size
        if size == 1 and len(steps) == before:
            break
        size = max(1, size // 2)
    return steps
