"""Checks the limits of unpacking, also for streams without end, in each command that unpacks.

One line with exit code 4 names layer, limit and flag.  Nothing stays in a cache or a store.
"""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path
from types import SimpleNamespace

import pytest
from hostile import Hostile
from imagewriter import (
    ImageSpec,
    compress,
    docker_archive,
    oci_archive,
    oci_files,
    sha256,
    write_directory,
)
from mounted import Command
from servedimage import ServedImage, in_range
from tarwriter import TarWriter

from fusemount.budget import ROOM_MIN, Budget
from fusemount.cli.main import main
from fusemount.codec import Read, decompress
from fusemount.compression import MAGIC_BYTES, detect
from fusemount.digest import Digest
from fusemount.errors import MalformedImage, NoSpace
from fusemount.layer import BlobFile, measured
from fusemount.settings import RATIO_FROM, UNPACK_LIMIT, UnpackLimit
from fusemount.store import Store

SIZE = 3 << 20
ZEROS = TarWriter().file("zeros", bytes(SIZE)).tar()
LIMIT = "--max-unpacked=2M"
REFUSED = r"than 2 MiB, the limit \(--max-unpacked SIZE allows more\)\n"
CODECS = ["gzip", "zstd", "xz", "bzip2"]

Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command that must fail with exit code 4.  Its line."""
    for what in ("CACHE", "STATE", "RUNTIME", "ROOT"):
        monkeypatch.setenv(f"IMGMOUNT_{what}_DIR", str(tmp_path / "own" / what.lower()))

    def called(*words: str | Path) -> str:
        if words[0] in ("mount", "run"):  # in a process of its own, because they change it
            done = Command(tmp_path / "own")(*words, check=False)
            code, line = done.returncode, done.stderr
        else:
            code = main([*map(str, words)])
            line = capsys.readouterr().err
        assert code == (125 if words[0] == "run" else MalformedImage.exit_code), line
        assert re.fullmatch(rf"imgmount: .*{REFUSED}", line), line
        left = [p for p in (tmp_path / "own").rglob("*") if p.is_file()]
        assert not [p for p in left if p.suffix in (".tar", ".part") or p.name.startswith(".tmp-")]
        assert sum(p.stat().st_size for p in left) < 50_000, left  # configs, indexes
        return line

    return called


@pytest.mark.parametrize("codec", CODECS)
def test_every_codec_and_verb(run: Run, tmp_path: Path, codec: str) -> None:
    archive = oci_archive(tmp_path / "a.tar", [ZEROS], tags=("t",), compress=codec)
    (tmp_path / "mnt").mkdir()
    assert "layer 1 of 1" in run("dump", LIMIT, archive)
    assert "layer sha256:" in run("load", "-q", LIMIT, archive)
    if codec == "gzip":
        run("mount", LIMIT, archive, tmp_path / "mnt")
        run("mount", "-o", "max-unpacked=2M", archive, tmp_path / "mnt")
        run("run", LIMIT, archive, "true")
        run("copy", "-q", LIMIT, f"oci-archive:{archive}", f"oci:{tmp_path / 'out'}")
    (tmp_path / "rootfs").write_bytes(compress(ZEROS, codec))
    for verb in ("import", "dump"):
        assert f"{tmp_path}/rootfs" in run(verb, LIMIT, tmp_path / "rootfs")


def test_an_archive_around_layers(run: Run, tmp_path: Path) -> None:
    """`docker save | gzip`."""
    archive = docker_archive(tmp_path / "a.tgz", [ZEROS], wrap="gzip")
    for verb in ("inspect", "load"):
        assert f"{archive}: unpacks to more" in run(verb, LIMIT, archive)
    run("copy", "-q", LIMIT, f"docker-archive:{archive}", f"oci:{tmp_path / 'out'}")


def test_a_layer_of_a_registry(run: Run, server: Hostile) -> None:
    files = oci_files([ImageSpec([ZEROS], tags=("t",), compress="zstd")])
    image = ServedImage(server, files, "a", "t")
    assert image.layers[0] in run("pull", "-q", LIMIT, image.name)


def test_a_size_that_is_only_claimed(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ratio counts the bytes that are there, not those that a manifest claims."""
    monkeypatch.setattr("fusemount.settings.RATIO_FROM", 1 << 20)
    files = oci_files([ImageSpec([ZEROS], tags=("t",), compress="zstd")])
    (top,) = json.loads(bytes(files["index.json"]))["manifests"]  # type: ignore[arg-type]
    manifest = json.loads(bytes(files.pop(f"blobs/sha256/{top['digest'][7:]}")))  # type: ignore[arg-type]
    manifest["layers"][0]["size"] = 1 << 50
    data = json.dumps(manifest).encode()
    files[f"blobs/sha256/{sha256(data)}"] = data
    top |= {"digest": f"sha256:{sha256(data)}", "size": len(data)}
    files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [top]}).encode()
    write_directory(tmp_path / "oci", files)
    words = r"1 MiB and 1,000 times its \d+ bytes, the limit \(--max-unpacked SIZE allows more\)\n"
    monkeypatch.setattr(f"{__name__}.REFUSED", words)
    run("load", "-q", tmp_path / "oci")


PARTS = [TarWriter().file(f"zeros{i}", bytes(800_000)).tar() for i in range(4)]  # two layers fit


def test_all_layers_have_one_limit(run: Run, tmp_path: Path) -> None:
    """Each layer alone is within the limit.  The first ones are removed, too."""
    archive = oci_archive(tmp_path / "a.tar", PARTS, tags=("t",), compress="gzip")
    other = docker_archive(tmp_path / "b.tar", PARTS, compress="zstd")
    (tmp_path / "mnt").mkdir()
    for each in (archive, other):
        assert f"{each}: layer" in run("dump", LIMIT, each)
        assert "with the image's other parts, unpacks to" in run("load", "-q", LIMIT, each)
    run("mount", LIMIT, archive, tmp_path / "mnt")
    run("copy", "-q", LIMIT, f"oci-archive:{archive}", f"oci:{tmp_path / 'out'}")


def test_an_archive_and_its_layers_have_one_limit(run: Run, tmp_path: Path) -> None:
    noise = TarWriter().file("noise", os.urandom(600_000)).tar()
    layers = [PARTS[0], PARTS[1], noise]
    archive = docker_archive(tmp_path / "a.tgz", layers, compress="gzip", wrap="gzip")
    for verb in ("dump", "load"):
        assert "layer 2 of 3" in run(verb, LIMIT, archive)
    run("copy", "-q", LIMIT, f"docker-archive:{archive}", f"oci:{tmp_path / 'out'}")


def test_all_images_of_an_archive_have_one_limit(run: Run, tmp_path: Path) -> None:
    images = [ImageSpec([part], tags=(f"t:{i}",), compress="gzip") for i, part in enumerate(PARTS)]
    run("load", "-q", LIMIT, oci_archive(tmp_path / "a.tar", images=images))


def test_layers_that_come_at_once(run: Run, server: Hostile) -> None:
    """Parts of unfinished layers are removed, too."""
    files = oci_files([ImageSpec(PARTS, tags=("t",), compress="zstd")])
    image = ServedImage(server, files, "a", "t")
    run("pull", "-q", LIMIT, image.name)
    # an unfinished layer usually keeps its part for the next pull; of this image it does not
    server.on(image.blob(image.layers[0]), in_range(image.bytes_of(image.layers[0]), drip=0.05))
    run("pull", "-q", LIMIT, image.name)


def test_parts_of_an_earlier_pull_are_not_left(run: Run, server: Hostile, tmp_path: Path) -> None:
    """The refused layer ends the pull before it comes to the others."""
    rest = [TarWriter().file(f"small{i}", os.urandom(5000)).tar() for i in range(12)]
    files = oci_files([ImageSpec([ZEROS, *rest], tags=("t",), compress="zstd")])
    image = ServedImage(server, files, "a", "t")
    for digest in image.layers[1:]:
        server.on(image.blob(digest), in_range(image.bytes_of(digest), drip=0.05))
    layout = Store(tmp_path / "own/root", create=True).layout
    for digest in image.layers:
        layout.part(Digest(digest)).write_bytes(image.bytes_of(digest)[:10])
    assert image.layers[0] in run("pull", "-q", LIMIT, image.name)


def test_what_is_unpacked_once_counts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMGMOUNT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("IMGMOUNT_ROOT_DIR", str(tmp_path / "root"))
    twice = [PARTS[0], PARTS[1], PARTS[0], PARTS[1]]
    archive = oci_archive(tmp_path / "a.tar", twice, tags=("t",), compress="gzip")
    for _ in range(2):
        assert main(["dump", LIMIT, str(archive)]) == 0
        assert main(["load", "-q", LIMIT, str(archive)]) == 0
    images = [ImageSpec(PARTS[:2], tags=(f"t:{i}",), compress="gzip") for i in range(3)]
    many = oci_archive(tmp_path / "many.tar", images=images)
    assert main(["load", "-q", LIMIT, str(many)]) == 0


def test_the_ratio_is_of_all_layers_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fusemount.settings.RATIO_FROM", 1 << 20)
    budget = Budget()
    budget.announce({"a": 500, "b": 1000, "c": 500})
    budget.spend("a", 900_000, 500)  # more than 1,000 times its own bytes
    budget.spend("b", 1_000_000, 1000)
    with pytest.raises(MalformedImage, match=r"^c: .*and 1,000 times the image's 2000 bytes"):
        budget.spend("c", 100_001, 500)
    enclosed = Budget()
    enclosed.enclose(1000)
    enclosed.announce({"a": 1 << 30})  # these 1,000 bytes gave it
    with pytest.raises(MalformedImage):
        enclosed.spend("a", (1 << 20) + 1, 1 << 30)


def test_threads_spend_of_one_budget() -> None:
    budget = Budget(UnpackLimit(30_000, 0))

    def spend(name: int) -> bool:
        for _ in range(10_000):
            budget.spend(f"{name}", 1, 1)
        return True

    with ThreadPoolExecutor(3) as pool:
        assert all(pool.map(spend, range(3)))
    with pytest.raises(MalformedImage):
        budget.spend("4", 1, 1)


def test_the_last_of_a_disk_stays_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error comes before the disk is full, with the exit code of a full disk."""
    noise = TarWriter().file("noise", os.urandom(1 << 20)).tar()
    parts = [PARTS[0], noise]
    unpacked = docker_archive(tmp_path / "b.tar", parts, compress="xz")  # not read in place
    stored = oci_archive(tmp_path / "a.tar", parts, tags=("t",), compress="gzip")
    size = 10 << 30

    def statvfs(fd: int) -> SimpleNamespace:
        return SimpleNamespace(f_frsize=1, f_blocks=size, f_bavail=free, f_bfree=free)

    monkeypatch.setattr("fusemount.budget.os.fstatvfs", statvfs)
    for verb, what, archive in (("dump", "CACHE", unpacked), ("load", "ROOT", stored)):
        monkeypatch.setenv(f"IMGMOUNT_{what}_DIR", str(tmp_path / verb))
        free = ROOM_MIN + 1000
        assert main([verb, str(archive)]) == NoSpace.exit_code
        assert re.fullmatch(r"imgmount: .*No space left on device\n", capsys.readouterr().err)
        assert not [p for p in (tmp_path / verb).rglob("*") if p.suffix in (".tar", ".part")]
        free = ROOM_MIN + (8 << 20)
        assert main([verb, str(archive)]) == 0
        capsys.readouterr()


def test_streams_without_end(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "/dev/zero: has more than" in run("load", LIMIT, "/dev/zero")
    with open("/dev/zero") as zeros:
        monkeypatch.setattr(sys, "stdin", zeros)
        for words in (["load"], ["import", "-"]):
            assert "standard input: has more than" in run(*words, LIMIT)


def endless(*parts: bytes) -> Read:
    """A stream that repeats its last piece for ever."""
    *first, last = parts

    def pieces() -> Iterator[bytes]:
        yield from first
        yield from repeat(last)

    source, rest = pieces(), b""

    def read(n: int) -> bytes:
        nonlocal rest
        rest = rest or next(source)
        piece, rest = rest[:n], rest[n:]
        return piece

    return read


SKIPPABLE = b"\x50\x2a\x4d\x18" + (100_000).to_bytes(4, "little") + bytes(100_000)


@pytest.mark.parametrize(
    "parts",
    [
        *([compress(bytes(1 << 20), codec)] for codec in CODECS),
        [compress(b"", "gzip") * 1000],
        [compress(b"", "bzip2") * 1000],
        [compress(b"", "xz"), bytes(1 << 16)],
        [SKIPPABLE],
    ],
    ids=[*CODECS, "empty gzip", "empty bzip2", "padding of xz", "skippable frames"],
)
def test_compressed_streams_without_end(parts: list[bytes]) -> None:
    """Also streams that give no byte at all."""
    pieces = decompress(
        endless(*parts), detect(parts[0][:MAGIC_BYTES]), "x", Budget(UnpackLimit(1 << 19, 0))
    )
    with pytest.raises(MalformedImage, match=r"than (512 KiB|20,000 .* members .*), the limit"):
        for _ in pieces:
            pass


def test_the_limit_is_exact() -> None:
    data = compress(ZEROS, "gzip")

    def unpacked(limit: UnpackLimit) -> int:
        read = io.BytesIO(data).read
        return sum(map(len, decompress(read, detect(data), "x", Budget(limit), len(data))))

    assert unpacked(UnpackLimit(len(ZEROS), 0)) == len(ZEROS)
    with pytest.raises(MalformedImage, match=f"than {len(ZEROS) - 1} bytes, the limit"):
        unpacked(UnpackLimit(len(ZEROS) - 1, 0))


def test_the_ratio_counts_where_nobody_named_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    assert UNPACK_LIMIT.most(98_000) == RATIO_FROM == 1 << 30
    assert UNPACK_LIMIT.most(5 << 20) == 5000 << 20
    assert UNPACK_LIMIT.most(1 << 40) == 64 << 30
    monkeypatch.setattr("fusemount.settings.RATIO_FROM", 1 << 20)
    data = compress(ZEROS, "zstd")
    with pytest.raises(MalformedImage, match=rf"than 1 MiB and 1,000 times its {len(data)} bytes"):
        list(decompress(io.BytesIO(data).read, detect(data), "x", Budget(), len(data)))


@pytest.mark.parametrize("word", ["", "0", "-1", "1X", "G", "9" * 30, "64 G", "1e9"])
def test_sizes_that_are_none(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["load", f"--max-unpacked={word or '='}", "x"]) == 2
    assert "expected a size, like 64G, or unlimited" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["dump", "load"])
def test_a_hole_behind_an_archive_does_not_count(
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    verb: str,
) -> None:
    monkeypatch.setattr("fusemount.settings.RATIO_FROM", 1 << 20)
    bomb = TarWriter().file("zeros", bytes(16 << 20)).tar()
    archive = oci_archive(tmp_path / "a.tar", [bomb], tags=("t:1",), wrap="bzip2")
    os.truncate(archive, 1 << 30)
    assert main([verb, str(archive)]) == MalformedImage.exit_code
    assert "unpacks to more than" in capsys.readouterr().err


@pytest.mark.parametrize("lie", ["hard links", "symlinks", "holes"])
def test_only_bytes_that_are_there_count(
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    lie: str,
) -> None:
    """Layers that are other names of one file, or holes, do not let the others unpack to more."""
    monkeypatch.setattr("fusemount.settings.RATIO_FROM", 1 << 20)
    monkeypatch.setattr("fusemount.transfer.bring.JOBS", 1)  # the bomb first
    bomb = TarWriter().file("zeros", bytes(16 << 20)).tar()
    pads = [TarWriter().file(f"{i}").tar() for i in range(30)]
    files = oci_files([ImageSpec([bomb, *pads], tags=("t:1",), compress="bzip2")])
    paths = [f"blobs/sha256/{sha256(compress(pad, 'bzip2'))}" for pad in pads]
    files = {name: data for name, data in files.items() if name not in paths}
    write_directory(tmp_path / "layout", files | {"pad": os.urandom(4096)})
    for path in (tmp_path / "layout" / name for name in paths):
        if lie == "hard links":
            os.link(tmp_path / "layout/pad", path)
        elif lie == "symlinks":
            path.symlink_to("../../pad")
        else:
            path.touch()
            os.truncate(path, 1 << 30)
    found = [
        measured(BlobFile(path), 0, path.stat().st_size)
        for path in (tmp_path / "layout/blobs/sha256").iterdir()
    ]
    assert sum(dict(found).values()) < 256 << 10
    archive = subprocess.run(["tar", "-cS", "-C", tmp_path / "layout", "."], capture_output=True)
    (tmp_path / "a.tar").write_bytes(archive.stdout)
    for place in ["layout", "a.tar"][: 1 if lie == "holes" else 2]:
        assert main(["load", str(tmp_path / place)]) == MalformedImage.exit_code
        error = capsys.readouterr().err
        assert re.search(r"unpacks to more than (1 MiB|[1-9]\d{6} bytes) and 1,000 times", error), (
            error
        )
