"""Law: an image of compressed layers, which are read in place, is used like the same image with
plain layers: whatever is read, changed, removed from the chunk cache, or killed meanwhile."""

from __future__ import annotations

import errno
import hashlib
import json
import mmap
import os
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest
from busyboximage import busybox_layers
from imagewriter import compress, docker_archive
from inplace import CODECS, MIB, chunks_of, contents, forget_pages, layers
from mounted import Command, mounted
from oracle import differences, dump_directory
from tarwriter import TarWriter

from fusemount.layer import chunkcache


@pytest.fixture
def command(tmp_path: Path, fastpath: bool) -> Command:
    return Command(tmp_path / "dirs", fastpath)


def image(tmp_path: Path, codec: str) -> Path:
    path = tmp_path / f"{codec}.tar"
    return path if path.exists() else docker_archive(path, layers(), compress=codec)


# ---- reading


def segments(path: Path) -> list[tuple[int, int]]:
    """Data and holes, as lseek(2) gives them."""
    found, at = [], 0
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        while at < size:
            try:
                start = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError as error:
                assert error.errno == errno.ENXIO
                break
            at = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            found.append((start, at))
    return found


def read_directly(path: Path) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    with mmap.mmap(-1, MIB) as buffer:  # aligned
        try:
            pieces = []
            while n := os.readv(fd, [buffer]):
                pieces.append(buffer[:n])
            return b"".join(pieces)
        finally:
            os.close(fd)


def mapped(path: Path) -> bytes:
    with open(path, "rb") as file:
        with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapping:
            random = Random(1)
            for at in random.sample(range(len(mapping)), 50):
                assert mapping[at] == contents()[at]
            return mapping[:]


@pytest.mark.parametrize("codec", CODECS)
def test_the_tree_and_the_bytes_are_those_of_plain_layers(
    tmp_path: Path, command: Command, codec: str
) -> None:
    with (
        mounted(command, image(tmp_path, "none"), tmp_path / "plain") as plain,
        mounted(command, image(tmp_path, codec), tmp_path / "packed", "--cache-size", "1M") as at,
    ):
        found = differences(dump_directory(at), dump_directory(plain))
        assert not found, found
        assert segments(at / "holes") == segments(plain / "holes")
        forget_pages(at / "big")
        chunkcache.evict(chunks_of(command), 0)
        assert mapped(at / "big") == contents()
        forget_pages(at / "big")
        assert read_directly(at / "d" / "link") == contents()
    dumps = [command("dump", "--digest", image(tmp_path, c)).stdout for c in ("none", codec)]
    assert dumps[0] == dumps[1]
    assert not any((command.base / "cache" / "layers").glob("*")), "nothing was unpacked"
    sidecars = list((command.base / "cache" / "points").glob("*.zst"))
    assert len(sidecars) == (codec == "zstd")


def test_the_cache_is_held_to_its_size(tmp_path: Path) -> None:
    """The daemon looks when it has kept 64 MiB."""
    command = Command(tmp_path / "dirs")
    data = (b"%d" % i * 16_384 for i in range(10))
    text = b"".join(data) * 500
    archive = docker_archive(
        tmp_path / "i.tar", [TarWriter().file("f", text).tar()], compress="zstd"
    )
    with mounted(command, archive, tmp_path / "m", "--cache-size", "8M") as at:
        assert len(text) > 64 * MIB
        with open(at / "f", "rb") as file:
            found = hashlib.file_digest(file, "sha256").digest()
        assert found == hashlib.sha256(text).digest()
        deadline = time.monotonic() + 20
        most = len(text) - 64 * MIB + 8 * MIB
        while chunkcache.size(chunks_of(command)) > most and time.monotonic() < deadline:
            time.sleep(0.02)
        assert chunkcache.size(chunks_of(command)) <= most


@pytest.mark.parametrize("codec", CODECS)
def test_two_mounts_share_chunks(tmp_path: Path, command: Command, codec: str) -> None:
    """The second mount can read what the first one has decompressed, though the blob is gone."""
    archive = image(tmp_path, codec)
    with (
        mounted(command, archive, tmp_path / "a") as first,
        mounted(command, archive, tmp_path / "b") as second,
    ):
        wanted = dump_directory(first)
        archive.write_bytes(bytes(archive.stat().st_size))
        assert dump_directory(second) == wanted


@pytest.mark.parametrize("codec", CODECS)
def test_programs_run(tmp_path: Path, command: Command, codec: str) -> None:
    packed = docker_archive(tmp_path / "busybox.tar", busybox_layers(), compress=codec)
    done = command("run", packed, "cat", "/etc/motd", "/etc/second")
    assert done.stdout == "hello\n2\n"


# ---- changing


def change(at: Path) -> None:
    with open(at / "big", "r+b") as file:
        file.seek(3 * MIB + 1)
        file.write(b"!")
    os.chmod(at / "d" / "50", 0o600)
    os.rename(at / "d" / "51", at / "moved")
    os.truncate(at / "d" / "52", 777)
    with open(at / "d" / "53", "ab") as file:
        file.write(b"more")
    with open(at / "holes", "r+b") as file:
        os.pwrite(file.fileno(), b"z", 10)
    with open(at / "sym", "rb") as source, open(at / "copy", "w+b") as target:
        at_byte = MIB + 3
        while n := os.copy_file_range(source.fileno(), target.fileno(), 2 * MIB, at_byte):
            at_byte += n
    subprocess.run(["cp", "--reflink=auto", at / "d" / "link", at / "cloned"], check=True)
    (at / "d" / "54").unlink()


def state(at: Path) -> dict[str, tuple[int, int, str]]:
    """Mode, links and contents of each file."""
    found = {}
    for here, _, names in os.walk(at):
        for path in (Path(here, name) for name in names):
            st = path.lstat()
            if stat.S_ISCHR(st.st_mode):  # a whiteout, in an upper
                continue
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            found[str(path.relative_to(at))] = (st.st_mode, st.st_nlink, digest)
    return found


@pytest.mark.parametrize("codec", CODECS)
def test_files_of_compressed_layers_are_copied_up(
    tmp_path: Path, command: Command, codec: str
) -> None:
    seen, uppers = [], []
    for each in ("none", codec):
        base = tmp_path / f"of-{each}"
        base.mkdir()
        upper = base / "upper"
        options = ("--upper", upper, "--work", base / "work")
        with mounted(command, image(tmp_path, each), base / "m", *options) as at:
            change(at)
            forget_pages(at / "big", at / "copy")
            seen.append(state(at))
        with mounted(command, image(tmp_path, each), base / "m", *options) as at:
            seen.append(state(at))
        uppers.append({k: v for k, v in state(upper).items() if not k.startswith(".")})
    changed = contents()[: 3 * MIB + 1] + b"!" + contents()[3 * MIB + 2 :]
    assert seen[0]["copy"][2] == hashlib.sha256(changed[MIB + 3 :]).hexdigest()
    assert seen[0] == seen[1] == seen[2] == seen[3]
    assert uppers[0] == uppers[1]


# ---- damage


@contextmanager
def reading(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sha256sum", path], stdout=-1, stderr=-1) as reader:
        try:
            yield reader
        finally:
            reader.kill()


@pytest.mark.parametrize("codec", CODECS)
def test_a_daemon_that_is_killed_while_it_decompresses(
    tmp_path: Path, command: Command, codec: str
) -> None:
    archive = image(tmp_path, codec)
    (tmp_path / "m").mkdir()
    command(archive, tmp_path / "m")
    try:
        (mount,) = json.loads(command("mounts", "--json").stdout)
        with reading(tmp_path / "m" / "big"):
            while chunkcache.size(chunks_of(command)) < MIB:
                pass
            os.kill(int(mount["pid"]), signal.SIGKILL)
    finally:
        command("umount", "--lazy", tmp_path / "m", check=False)
    with mounted(command, archive, tmp_path / "again") as at:
        assert (at / "big").read_bytes() == contents()
        assert (at / "d" / "59").read_bytes() == contents()[59 * 999 :][: 59 * 500]


def test_a_damaged_blob_gives_errors_and_a_line(tmp_path: Path, command: Command) -> None:
    archive, log = image(tmp_path, "gzip"), tmp_path / "log"
    blob = compress(layers()[0], "gzip")
    place = archive.read_bytes().index(blob) + len(blob) // 2
    with mounted(command, archive, tmp_path / "m", "--log", log) as at:
        with open(archive, "r+b") as file:
            file.seek(place)
            file.write(b"\xff" * 40)
        damaged, offset = set(), 0
        with open(at / "big", "rb") as opened:
            while offset < len(contents()):
                try:
                    piece = os.pread(opened.fileno(), 65_536, offset)  # short before a bad page
                    assert piece and contents().startswith(piece, offset)
                    offset += len(piece)
                except OSError as error:
                    assert error.errno == errno.EIO
                    damaged.add(offset // (256 << 10))
                    offset += 4096 - offset % 4096
        assert 0 < len(damaged) <= 8
        assert (at / "d" / "small").read_bytes() == b"upper"
    lines = [line for line in log.read_text().splitlines() if "cannot be read" in line]
    assert lines and all(f"{archive.name}: layer 1 of 2" in line for line in lines)
    assert len(lines) == len({line.partition(": bytes ")[2] for line in lines}) <= len(damaged) + 1
