"""A hole costs a user nothing; root's commands write or hash only so many of its zeros."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from mounted import Command

HUGE = 1 << 43  # near the largest file of ext4
THEN = (978_307_200, 978_307_200)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    base = tmp_path / "base"
    base.mkdir()
    (base / "small").write_text("small")
    return base


def put_sparse(directory: Path, name: str = "sparse", size: int = HUGE) -> None:
    with open(directory / name, "wb") as file:
        file.write(b"head")
        file.truncate(size)


@pytest.mark.parametrize("verb", ["commit", "export", "dump"])
@pytest.mark.parametrize("place", ["upper", "layer"])
def test_holes_beyond_the_limit(
    command: Command, base: Path, tmp_path: Path, verb: str, place: str
) -> None:
    upper, out = tmp_path / "upper", tmp_path / "out"
    upper.mkdir()
    put_sparse(upper if place == "upper" else base)
    lines = {
        "commit": ["commit", "--base", f"dir:{base}", upper, "t", "-o", out],
        "export": ["export", "--base", f"dir:{base}", upper, "-o", out],
        "dump": ["dump", "--digest", "--upper", upper, f"dir:{base}"],
    }
    done = command(*lines[verb], check=False)
    assert done.returncode == 4 and done.stderr.count("\n") == 1, done.stderr
    assert f"/sparse: a sparse file of {HUGE} bytes" in done.stderr
    assert "64 GiB of zeros, the limit (--max-unpacked" in done.stderr
    assert not out.exists()


def test_holes_of_all_files_count_together(command: Command, base: Path) -> None:
    for name in "abc":
        put_sparse(base, name, 1 << 20)
    line = ["dump", "--digest", f"dir:{base}", "--max-unpacked"]
    done = command(*line, "2M", check=False)
    assert done.returncode == 4 and "/c: a sparse file of 1048576 bytes" in done.stderr
    assert "together with others' more than 2 MiB" in done.stderr
    expected = hashlib.sha256(b"head".ljust(1 << 20, b"\0")).hexdigest()
    assert command(*line, "3M").stdout.count(expected) == 3


def test_images_are_compared_without_their_holes(command: Command, tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        put_sparse(tmp_path / name)
        (tmp_path / name / "other").write_text("")
    for path in (*tmp_path.glob("[ab]"), *tmp_path.glob("[ab]/*")):
        os.utime(path, THEN)
    images = [f"dir:{tmp_path / name}" for name in "ab"]
    assert command("diff", *images).stdout == ""
    with open(tmp_path / "b/sparse", "r+b") as file:
        file.seek(HUGE - 5)
        file.write(b"x")
    os.utime(tmp_path / "b/sparse", THEN)
    assert command("diff", *images).stdout == "C /sparse\n"
