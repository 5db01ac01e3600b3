"""Law: mounts that fill and read the same chunks at the same time, while chunks are removed, show
the bytes of the plain layers.  The tests cost some 12 s in all."""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from random import Random

import pytest
from imagewriter import ImageSpec, compress, docker_archive, sha256
from inplace import CODECS, check_kept, chunks_of, directories_of, forget_pages, layers
from mounted import Command, mounted
from oracle import differences, dump_directory, unpack, without_layer

from fusemount.layer import chunkcache

MOUNTS = 8

# Threads read files of several mounts at random, by pread(2) and by mmap(2), as fsx does.
READER = """
import mmap, os, random, sys
from concurrent.futures import ThreadPoolExecutor

seed, plain, *mounts = sys.argv[1:]

def read(fd, at, n, mapped):
    if not mapped:
        return os.pread(fd, n, at)
    start = at - at % mmap.ALLOCATIONGRANULARITY
    with mmap.mmap(fd, at + n - start, mmap.MAP_SHARED, mmap.PROT_READ, offset=start) as mapping:
        return mapping[at - start :]

def some(number):
    chosen = random.Random(f"{seed} {number}")
    for _ in range(60):
        at_mount = chosen.choice(mounts)
        name = chosen.choice(["big", "holes", "d/link", "d/%d" % chosen.randrange(1, 60)])
        ours, theirs = (os.open(f"{base}/{name}", os.O_RDONLY) for base in (at_mount, plain))
        size = os.fstat(theirs).st_size
        for _ in range(chosen.randrange(1, 5)):
            at = chosen.randrange(size)
            n = chosen.randrange(1, min(300_000, size - at) + 1)
            wanted = os.pread(theirs, n, at)
            assert read(ours, at, n, chosen.random() < 0.5) == wanted, (at_mount, name, at, n)
        if chosen.random() < 0.3:
            os.posix_fadvise(ours, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(ours), os.close(theirs)

with ThreadPoolExecutor(2) as pool:
    list(pool.map(some, range(2)))
"""


@pytest.fixture
def command(tmp_path: Path, fastpath: bool) -> Command:
    return Command(tmp_path / "dirs", fastpath)


@pytest.mark.parametrize("codec", CODECS)
def test_many_read_while_chunks_are_removed(tmp_path: Path, command: Command, codec: str) -> None:
    """Two mounts fill the chunks, and the eviction goes to another size each time."""
    image = docker_archive(tmp_path / "i.tar", layers(), compress=codec)
    plain, random = unpack(layers()[0], tmp_path / "plain"), Random(codec)
    with ExitStack() as stack:
        mounts = [
            stack.enter_context(mounted(command, image, tmp_path / name, "--cache-size", "1M"))
            for name in ("a", "b")
        ]
        readers = [
            subprocess.Popen([sys.executable, "-c", READER, str(seed), plain, *mounts])
            for seed in range(3)
        ]
        removed = 0
        while any(reader.poll() is None for reader in readers):
            removed += chunkcache.evict(chunks_of(command), random.choice((0, 1 << 20, 3 << 20)))
            forget_pages(*(at / "big" for at in mounts))
        assert [reader.returncode for reader in readers] == [0, 0, 0]
        assert removed > 8 << 20
    check_kept(image, directories_of(command), layers())


def test_eight_mounts_begin_with_an_empty_cache(tmp_path: Path) -> None:
    """All of them make the index, the points, the sidecar and the chunks of two layers, one of gzip
    and one of zstd."""
    command, tars = Command(tmp_path / "dirs"), [layers()[0], layers()[0] + bytes(512)]
    blobs = [compress(tar, codec) for tar, codec in zip(tars, CODECS, strict=True)]
    rootfs = {"type": "layers", "diff_ids": ["sha256:" + sha256(tar) for tar in tars]}
    spec = ImageSpec(blobs, config={"rootfs": rootfs}, compress="none")
    image = docker_archive(tmp_path / "i.tar", images=[spec])
    plain = docker_archive(tmp_path / "p.tar", tars, compress="none")
    wanted = without_layer(command("dump", "--digest", plain).stdout.encode().splitlines())
    places = [tmp_path / f"m{n}" for n in range(MOUNTS)]
    for at in places:
        at.mkdir()
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "fusemount", image, at],
            env=command.environment, stdout=-1, stderr=-1, stdin=subprocess.DEVNULL,
        )
        for at in places
    ]  # fmt: skip
    try:
        said = [b"".join(each.communicate(timeout=120)) for each in started]
        assert [each.returncode for each in started] == [0] * MOUNTS, said
        for at in places:
            assert not differences(dump_directory(at), wanted)
    finally:
        for at in places:
            command("umount", at, check=False)
    check_kept(image, directories_of(command), tars)
