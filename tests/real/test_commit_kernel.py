"""An image committed from an upper of the kernel's overlayfs shows the tree of that overlayfs."""

from __future__ import annotations

from pathlib import Path

import pytest
from imagewriter import docker_archive
from mounted import Command, mounted
from oracle import differences, dump_directory, run, unpack
from test_committed_images import SCRIPT, layers


@pytest.mark.parametrize("options", ["", ",redirect_dir=on", ",redirect_dir=on,metacopy=on"])
def test_an_upper_of_the_kernels(tmp_path: Path, options: str) -> None:
    image = docker_archive(tmp_path / "image.tar", layers())
    lower = [unpack(tar, tmp_path / f"layer{i}") for i, tar in enumerate(layers())]
    upper, work, at = (tmp_path / name for name in ("upper", "work", "at"))
    for directory in (upper, work, at):
        directory.mkdir()
    below = ":".join(str(path) for path in reversed(lower))
    words = f"lowerdir={below},upperdir={upper},workdir={work}{options}"
    run("mount", "-t", "overlay", "overlay", "-o", words, at)
    try:
        run("bash", "-c", SCRIPT, cwd=at)
        expected = dump_directory(at)
    finally:
        run("umount", at)
    command = Command(tmp_path / "dirs")
    command("commit", upper, "k:1", "--base", image, "-o", tmp_path / "out")
    with mounted(command, tmp_path / "out", tmp_path / "new", "--read-only") as at:
        found = differences(dump_directory(at), expected)
    assert not found, "the committed image (ours) and the kernel's overlayfs (theirs):\n" + found
