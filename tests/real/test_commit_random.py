"""An image committed after random changes shows the mounted tree; so does an image on top of it."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random

import pytest
from imagewriter import oci_archive
from mounted import Command, mounted
from oneprocess import Side, choose
from oracle import differences, dump_directory
from test_random_operations import layers
from treediff import tree_diff

OPERATIONS, COMMITS = 250, 3


@pytest.mark.parametrize("seed", range(4))
def test_a_committed_image_shows_what_was_mounted(tmp_path: Path, seed: int) -> None:
    command, random = Command(tmp_path / "dirs"), Random(seed)
    image = oci_archive(tmp_path / "0", layers(), compress="gzip")
    old_umask = os.umask(0o022)
    try:
        for round in range(1, COMMITS + 1):
            image = change_and_commit(command, random, image, tmp_path / str(round))
    finally:
        os.umask(old_umask)


def change_and_commit(command: Command, random: Random, image: Path, new: Path) -> Path:
    side = Side(new.with_suffix(".mnt"))
    with mounted(command, image, side.root) as at:
        for _ in range(OPERATIONS):
            side(choose(random))
        form = random.choice(("docker-archive", "oci-archive"))
        command("commit", at, "t:1", "-o", f"{form}:{new}")
        output = command("diff", at).stdout.encode().splitlines()
        expected = dump_directory(at)
        assert len(output) > 5
        with mounted(command, image, new.with_suffix(".old"), "--read-only") as old:
            compare_diff(output, tree_diff(old, at))
        side.close_all()
    with mounted(command, new, new.with_suffix(".new"), "--read-only") as at:
        found = differences(dump_directory(at), expected)
    assert not found, "the committed image (ours) and the mount (theirs):\n" + found
    return new


def compare_diff(ours: list[bytes], theirs: list[bytes]) -> None:
    """The diff has every change that two trees show.

    It may also name files that were written with the contents that they had before.
    """
    missing = sorted(set(theirs) - set(ours))
    assert not missing, missing
    assert all(line.startswith(b"C ") for line in set(ours) - set(theirs))
