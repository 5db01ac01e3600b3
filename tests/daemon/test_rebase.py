"""An upper belongs to the layers that it was made over (rootfs.base): other layers are refused, and
rebasing removes nothing from the upper."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from imagewriter import docker_archive, oci_archive
from mounted import Command, mounted
from oracle import run
from tarwriter import TarWriter

MARK = "trusted.overlay.imgmount.base"


def layers(*, other: bool = False) -> list[bytes]:
    """The other image has less, and another file where the first has `both`."""
    tar = TarWriter().dir("d").file("both", b"other contents" if other else b"contents")
    if not other:
        tar.file("gone", b"deleted").file("attr", b"only here").file("d/x", b"x").dir("old")
        tar.file("old/in", b"in")
    return [tar.tar()]


@pytest.fixture
def upper(command: Command, tmp_path: Path) -> Path:
    """Made over a.tar: one file deleted, attributes changed, a directory renamed, one file made."""
    image = docker_archive(tmp_path / "a.tar", layers())
    docker_archive(tmp_path / "b.tar", layers(other=True))
    with mounted(command, image, tmp_path / "mnt", "--upper", tmp_path / "upper") as at:
        (at / "gone").unlink()
        (at / "attr").chmod(0o600)
        (at / "both").chmod(0o600)
        (at / "old").rename(at / "new")
        (at / "made").write_text("made")
    return tmp_path / "upper"


def shown(command: Command, image: Path, upper: Path, *options: str) -> dict[str, bytes]:
    with mounted(command, image, upper.with_name("mnt"), "--upper", upper, *options) as at:
        files = [p for p in at.rglob("*") if p.is_file()]
        return {str(p.relative_to(at)): p.read_bytes() for p in files}


def on_disk(upper: Path) -> bytes:
    marks = run("getfattr", "-R", "-d", "-m", "-", "--absolute-names", upper).stdout
    return marks + run("find", upper, "-printf", "%p %M %s\n").stdout


OVER_A = {"attr": b"only here", "both": b"contents", "d/x": b"x", "new/in": b"in", "made": b"made"}


def test_other_layers_are_refused_and_change_nothing(
    command: Command, upper: Path, tmp_path: Path
) -> None:
    before = on_disk(upper)
    mount = (tmp_path / "b.tar", tmp_path / "mnt", "--upper", upper)
    for options in ((), ("--read-only",), ("--no-verify",), ("-o", "fastpath=off")):
        failed = command(*mount, *options, check=False)
        assert failed.returncode == 8
        assert "a.tar (sha256:" in failed.stderr and "b.tar (sha256:" in failed.stderr
    for verb in (("diff", "--base"), ("commit", "-o", tmp_path / "c.tar", "--base")):
        name = ("new:1",) if verb[0] == "commit" else ()
        failed = command(*verb, tmp_path / "b.tar", upper, *name, check=False)
        assert failed.returncode == 8 and failed.stderr.count("sha256:") == 2
    assert on_disk(upper) == before
    assert shown(command, tmp_path / "a.tar", upper) == OVER_A


def test_the_same_layers_are_accepted_by_any_name(
    command: Command, upper: Path, tmp_path: Path
) -> None:
    forms = [
        Path(shutil.move(tmp_path / "a.tar", tmp_path / "moved.tar")),
        oci_archive(tmp_path / "o.tar", layers(), config={"author": "another config"}),
    ]
    for image in forms:
        assert shown(command, image, upper) == OVER_A
    recorded = json.loads(os.getxattr(upper, MARK))
    assert recorded["image"].endswith("o.tar") and recorded["chain"].startswith("sha256:")


def test_what_an_older_version_recorded_counts(
    command: Command, upper: Path, tmp_path: Path
) -> None:
    """An older version recorded only the image ID."""
    recorded = json.loads(os.getxattr(upper, MARK))
    del recorded["chain"]
    os.setxattr(upper, MARK, json.dumps(recorded).encode())
    failed = command(tmp_path / "b.tar", tmp_path / "mnt", "--upper", upper, check=False)
    assert failed.returncode == 8
    assert shown(command, tmp_path / "a.tar", upper) == OVER_A
    assert "chain" in json.loads(os.getxattr(upper, MARK))


def test_a_rebased_upper_loses_nothing(command: Command, upper: Path, tmp_path: Path) -> None:
    b = tmp_path / "b.tar"
    before = on_disk(upper)
    tried = command(b, tmp_path / "mnt", "--upper", upper, "--rebase", "--dry-run")
    assert on_disk(upper) == before and not os.path.ismount(tmp_path / "mnt")
    assert [line.partition(":")[0] for line in tried.stdout.splitlines()] == [
        "/attr", "/both", "/gone", "/new", "/old",
    ]  # fmt: skip
    over_b = {"both": b"other contents", "made": b"made"}
    assert shown(command, b, upper, "--rebase") == over_b
    assert shown(command, b, upper) == over_b  # the upper belongs to b now
    again = command(b, tmp_path / "mnt", "--upper", upper, "--rebase", "--dry-run")
    assert again.stdout == "nothing would be dropped\n"
    assert shown(command, tmp_path / "a.tar", upper, "--rebase") == OVER_A
