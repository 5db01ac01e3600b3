"""Scratches: dropped at the end, swept after a crash, never removed under a living mount."""

from __future__ import annotations

import os
from pathlib import Path

from fusemount.daemon.scratch import create_scratch, drop, is_scratch, sweep


def test_gone_when_released(tmp_path: Path) -> None:
    scratch = create_scratch(tmp_path)
    (scratch.upper / "d").mkdir(mode=0o000)
    (scratch.work / "work").mkdir(mode=0o000)
    scratch.release()
    assert list((tmp_path / "uppers").iterdir()) == []


def test_kept_when_asked(tmp_path: Path) -> None:
    scratch = create_scratch(tmp_path)
    scratch.keep()
    (scratch.upper / "file").write_text("x")
    scratch.release()
    assert (scratch.upper / "file").read_text() == "x"
    assert sorted(os.listdir(scratch.path)) == ["keep", "upper"]
    sweep(tmp_path, [])
    assert scratch.upper.exists()


def test_sweep_takes_only_what_nobody_uses_or_records(tmp_path: Path) -> None:
    living = create_scratch(tmp_path)
    crashed = create_scratch(tmp_path)
    recorded = create_scratch(tmp_path)
    os.close(crashed.lock)  # as the kernel does when a process is killed
    os.close(recorded.lock)
    sweep(tmp_path, [recorded.path])
    left = sorted((tmp_path / "uppers").iterdir())
    assert left == sorted([living.path, recorded.path])
    living.release()


def test_sweep_without_a_state_directory(tmp_path: Path) -> None:
    sweep(tmp_path / "none", [])
    assert not (tmp_path / "none").exists()


def test_drop_goes_on_past_locked_directories(tmp_path: Path) -> None:
    deep = tmp_path / "a" / "b" / "c"
    deep.mkdir(parents=True)
    (deep / "f").touch()
    for path in (deep, deep.parent, tmp_path / "a"):
        path.chmod(0)
    drop(tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_only_a_scratch_is_dropped_by_name(tmp_path: Path) -> None:
    uppers = f"{tmp_path}/uppers"
    assert is_scratch(f"{uppers}/0a1b", tmp_path)
    for path in (f"{uppers}/..", f"{uppers}/.", f"{uppers}/", uppers, f"{uppers}/a/../..",
                 f"{uppers}/a/b", "/etc", "", ".."):  # fmt: skip
        assert not is_scratch(path, tmp_path)
