"""Names that a layer's tar has to say in another way, through commit and back."""

from __future__ import annotations

from pathlib import Path

from busyboximage import busybox_layers
from imagewriter import docker_archive
from mounted import Command, mounted
from tarwriter import TarWriter

LONG = "n" * 255  # NAME_MAX of Linux: its whiteout has 259 bytes


def test_a_long_name_is_deleted(command: Command, tmp_path: Path) -> None:
    layers = [*busybox_layers(), TarWriter().file(LONG, b"x").file("kept", b"x").tar()]
    image = docker_archive(tmp_path / "image.tar", layers)
    with mounted(command, image, tmp_path / "mnt") as at:
        (at / LONG).unlink()
        command("commit", at, "t", "-o", tmp_path / "out")
    names = command("dump", tmp_path / "out").stdout
    assert "/kept " in names and LONG not in names


def test_a_deleted_name_that_looks_like_a_whiteout(command: Command, tmp_path: Path) -> None:
    """No layer can say so; a commit that says nothing would bring the name back."""
    layers = [*busybox_layers(), TarWriter().file(".wh.d/inside", b"x").tar()]
    image = docker_archive(tmp_path / "image.tar", layers)
    with mounted(command, image, tmp_path / "mnt") as at:
        (at / ".wh.d/inside").unlink()
        (at / ".wh.d").rmdir()
        done = command("commit", at, "t", "-o", tmp_path / "out", check=False)
    assert done.returncode == 1 and "/.wh.d: no layer can say" in done.stderr
    assert not (tmp_path / "out").exists()
