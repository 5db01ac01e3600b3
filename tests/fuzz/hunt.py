"""Looks for inputs that break a Python target, guided by coverage (atheris, which is libFuzzer).

    .venv/bin/python tests/fuzz/hunt.py TARGET [libFuzzer's flags] [CORPUS...]

`scripts/fuzz` calls it.  An input that was found is run again by naming its file.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

TOP = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TOP), str(TOP / "tests"), str(TOP / "tests/fuzz")]

with atheris.instrument_imports(include=["fusemount", "json", "email"]):
    from targets import TARGETS


def main() -> None:
    target = TARGETS[sys.argv[1]]
    atheris.instrument_func(target)
    atheris.Setup([sys.argv[0], *sys.argv[2:]], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
