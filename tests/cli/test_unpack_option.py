"""-o unpack= says which layers are unpacked; `dump --points`, `du` and `prune` know the rest."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from busyboximage import busybox_layers
from imagewriter import ImageSpec, compress, docker_archive, docker_files, sha256, write_archive
from mounted import Command, mounted
from tarwriter import TarWriter

from fusemount._native import CHUNK
from fusemount.cli.ages import human_size

DATA = os.urandom(3 * CHUNK)
TAR = TarWriter().file("f", DATA).tar()
HEX = sha256(TAR)


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path)


def kept(tmp_path: Path, directory: str) -> list[str]:
    path = tmp_path / "cache" / directory
    return sorted(os.listdir(path)) if path.exists() else []


@pytest.mark.parametrize(
    ("how", "word", "tar"),
    [
        ("gzip", "auto", False),
        ("gzip", "always", True),
        ("zstd", "never", False),
        ("xz", "auto", True),
    ],
)
def test_a_tar_is_kept_only_if_it_must_or_shall(
    command: Command, tmp_path: Path, how: str, word: str, tar: bool
) -> None:
    image = docker_archive(tmp_path / "i.tar", [TAR], compress=how)
    with mounted(command, image, tmp_path / "mnt", "-o", f"unpack={word}") as at:
        assert (at / "f").read_bytes() == DATA
    assert (f"{HEX}.tar" in kept(tmp_path, "layers")) == tar
    assert (f"{HEX}.data" in kept(tmp_path, "chunks")) == (not tar)


@pytest.mark.parametrize("how", ["xz", "bzip2"])
def test_never_refuses_what_cannot_be_read_in_place(
    command: Command, tmp_path: Path, how: str
) -> None:
    image = docker_archive(tmp_path / "i.tar", [TAR], compress=how)
    at = tmp_path / "mnt"
    at.mkdir()
    done = command(image, at, "-o", "unpack=never", check=False)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert f"{how} cannot be read in place" in done.stderr and "unpack=never" in done.stderr
    assert not os.path.ismount(at) and kept(tmp_path, "layers") == []


@pytest.mark.parametrize("how", ["gzip", "zstd"])
def test_a_compressed_root_file_system_is_read_in_place(
    command: Command, tmp_path: Path, how: str
) -> None:
    """The first mount reads the file once; the second decompresses only what is read."""
    plain, root = tmp_path / "plain.tar", tmp_path / "root.tar.x"
    plain.write_bytes(TAR)
    root.write_bytes(compress(TAR, how))
    for name in (root, f"tar:{root}", root):
        with mounted(command, name, tmp_path / "mnt", "-o", "unpack=never") as at:
            assert (at / "f").read_bytes() == DATA
    assert kept(tmp_path, "archives") == kept(tmp_path, "layers") == []
    assert f"{HEX}.data" in kept(tmp_path, "chunks")
    assert any(name.endswith(".kind") for name in kept(tmp_path, "facts"))
    assert command("dump", "--digest", root).stdout == command("dump", "--digest", plain).stdout
    root.write_bytes(compress(TAR, how)[:-100])
    done = command(root, tmp_path / "mnt", check=False)
    assert done.returncode == 4 and done.stderr.count("\n") == 1 and "cut off" in done.stderr


@pytest.mark.parametrize("first", ["etc/first", "blobs/first"])
@pytest.mark.parametrize("is_image", [False, True])
def test_all_names_of_a_compressed_tar_decide_what_it_is(
    command: Command, tmp_path: Path, first: str, is_image: bool
) -> None:
    files = docker_files([ImageSpec([TAR])]) if is_image else {"f": DATA}
    path = tmp_path / "x.tar.gz"
    write_archive(path, {first: b"1", **files}, wrap="gzip")
    with mounted(command, path, tmp_path / "mnt") as at:
        assert (at / "f").read_bytes() == DATA
        assert (at / first).exists() == (not is_image)
    unpacked = [name for name in kept(tmp_path, "archives") if name.endswith(".tar")]
    assert bool(unpacked) == (is_image or first.startswith("blobs"))
    done = command(path, tmp_path / "mnt", "-o", "unpack=never", check=False)
    if is_image:
        assert done.returncode == 1 and done.stderr.count("\n") == 1
        assert f"{path}: a gzip archive of images cannot be read in place" in done.stderr
    else:
        assert done.returncode == 0
        command("umount", tmp_path / "mnt")


def test_chunks_are_told_and_pruned(command: Command, tmp_path: Path) -> None:
    image = docker_archive(tmp_path / "i.tar", [TAR], compress="gzip", tags=["a:1"])
    other = TarWriter().file("g", DATA).tar()
    alone = docker_archive(tmp_path / "j.tar", [other], compress="gzip")
    command("load", "-i", image)
    at = tmp_path / "mnt"
    at.mkdir()
    command("a:1", at)
    try:
        assert (at / "f").read_bytes() == DATA
    finally:
        command("umount", at)
    points = command("dump", "--layer", "0", "--points", "a:1").stdout.splitlines()
    assert points[0] == "point 0 blob 0 0"
    chunks = [line.split() for line in points if line.startswith("chunk ")]
    assert [int(row[1]) for row in chunks] == [i * CHUNK for i in range(-(-len(TAR) // CHUNK))]
    assert all(int(row[3]) > 10**9 for row in chunks)

    with mounted(command, alone, tmp_path / "mnt") as at:
        assert (at / "g").read_bytes() == DATA
        used = json.loads(command("du", "--json").stdout)
        assert used["ChunksSize"] >= 6 * CHUNK and used["ChunksLimit"] > 0
        (line,) = (row for row in command("du").stdout.splitlines() if row.startswith("Chunks"))
        assert f"{human_size(used['ChunksSize'])} of {human_size(used['ChunksLimit'])}" in line
        assert "of " + human_size(used["ChunksLimit"]) in command("du", "-v").stdout
        command("prune", "-f")
        both = [n for n in kept(tmp_path, "chunks") if n.endswith(".data")]
        assert f"{HEX}.data" in both and len(both) == 2, "a mount has the other one open"
        assert (at / "g").read_bytes() == DATA
    command("prune", "-f")
    assert [n for n in kept(tmp_path, "chunks") if n.endswith(".data")] == [f"{HEX}.data"]
    left = json.loads(command("du", "--json").stdout)["ChunksSize"]
    assert 3 * CHUNK <= left < used["ChunksSize"]
    command("prune", "-af")
    assert [n for n in kept(tmp_path, "chunks") if n.endswith(".data")] == []


def test_run_holds_the_chunks_to_a_size(command: Command, tmp_path: Path) -> None:
    """Its server looks at its start; the command waits for that."""
    image = docker_archive(tmp_path / "i.tar", [*busybox_layers(), TAR], compress="gzip")
    with mounted(command, image, tmp_path / "mnt") as at:
        assert (at / "f").read_bytes() == DATA
    chunks = tmp_path / "cache" / "chunks"
    assert (chunks / f"{HEX}.data").stat().st_blocks * 512 >= 3 * CHUNK
    wait = f"until test $(stat -c %b /c/{HEX}.data) -lt {CHUNK // 512}; do sleep 0.05; done"
    volume = f"{chunks}:/c:ro"
    command("run", "--cache-size", "100K", "-v", volume, image, "sh", "-c", wait, seconds=40)
    done = command("run", "--cache-size", "2GG", image, "true", check=False)
    assert done.returncode == 125
    assert done.stderr == "imgmount: --cache-size 2GG: expected a size, like 2G\n"


def test_what_is_not_read_in_place_has_no_points(command: Command, tmp_path: Path) -> None:
    image = docker_archive(tmp_path / "i.tar", [TAR])
    done = command("dump", "--points", "--layer", "0", image, check=False)
    assert done.returncode == 1 and done.stderr.endswith("no access points are kept\n")
    assert command("dump", "--points", image, check=False).returncode == 2
    assert command("dump", "--points", "--layer", "1", image, check=False).returncode == 2
