"""pytest imports test modules by their bare names (its rootdir import mode): two modules of one
name would shadow each other, and the complete run fails."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]


def test_each_module_has_a_name_of_its_own() -> None:
    counted = Counter(p.name for p in TESTS.rglob("*.py") if p.name != "conftest.py")
    assert [name for name, times in counted.items() if times > 1] == []
