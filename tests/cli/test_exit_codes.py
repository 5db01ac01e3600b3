"""The table of docs/exit-codes.md is what scripts/exit-codes prints."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def printed() -> str:
    return subprocess.run(
        [sys.executable, ROOT / "scripts/exit-codes"], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_the_page_has_the_table() -> None:
    assert printed() in (ROOT / "docs/exit-codes.md").read_text()


def test_every_error_has_a_number_of_its_own() -> None:
    codes = [line.split("|")[1].strip() for line in printed().splitlines()[2:]]
    assert len(codes) == len(set(codes))
    assert {"0", "1", "2", "3", "10", "125", "127"} <= set(codes)
