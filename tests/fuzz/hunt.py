"""Looks for inputs that break a Python target, guided by coverage (atheris, which is libFuzzer).

    .venv/bin/python tests/fuzz/hunt.py TARGET [libFuzzer's flags] [CORPUS...]

`scripts/fuzz` calls it.  With the file of an input as CORPUS, that input is run again.
"""

from __future__ import annotations

import sys
from pathlib import Path
from random import Random
from typing import Any

import atheris

TOP = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TOP), str(TOP / "tests"), str(TOP / "tests/fuzz")]

with atheris.instrument_imports(include=["fusemount", "json", "email"]):
    from targets import TARGETS

from mutating import MUTATORS  # noqa: E402


def main() -> None:
    name = sys.argv[1]
    mutate = MUTATORS.get(name)
    flags: dict[str, Any] = {}
    if mutate is not None:

        def either(data: bytes, max_size: int, seed: int) -> bytes:
            random = Random(seed)
            if random.randrange(2):
                return atheris.Mutate(data, max_size)
            return mutate(data, random)[:max_size]

        flags["custom_mutator"] = either
    atheris.instrument_func(TARGETS[name])
    atheris.Setup([sys.argv[0], *sys.argv[2:]], TARGETS[name], **flags)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
