"""Makes the images, and once from each of them the forms that peers need.

Law: an image is a tar with the same bytes on every machine.  Every file is written beside its name
and then renamed, so that an interrupted set-up leaves no file that looks complete.

File contents repeat one pattern.  No contestant compresses, so none gains from that.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from benchmarks import debian
from benchmarks.tools import SETUP_SECONDS, Tools, output

BLOCK = 512
PATTERN = bytes(range(256)) * 4096  # 1 MiB
MIB = 1 << 20


@dataclass(frozen=True)
class Image:
    """One archive and the forms that are made from it, all below one directory.

    entries: its approximate number of nodes, for the memory limit.
    """

    name: str
    base: Path
    tools: Tools
    entries: int
    write: Callable[[Path], None]

    @property
    def tar(self) -> Path:
        """The uncompressed tar of a root file system; written at the first call."""
        return self._made(self.base / f"{self.name}.tar", self.write)

    @property
    def unpacked(self) -> Path:
        return self._made(self.base / f"{self.name}.unpacked", self._unpack)

    @property
    def squashfs(self) -> Path:
        """A squashfs with nothing compressed, as in the tar: squashfuse is fastest with it."""
        return self._made(self.base / f"{self.name}.squashfs", self._squash)

    @property
    def ratarmount_index(self) -> Path:
        return self._made(self.base / f"{self.name}.sqlite", self._index)

    def _made(self, path: Path, make: Callable[[Path], None]) -> Path:
        if not path.exists():
            print(f"bench: making {path.name}", file=sys.stderr)
            part = path.with_name(path.name + ".part")
            if part.is_dir():
                shutil.rmtree(part)
            part.unlink(missing_ok=True)
            make(part)
            part.rename(path)
        return path

    def _unpack(self, part: Path) -> None:
        part.mkdir()
        output(["tar", "--numeric-owner", "-xpf", self.tar, "-C", part], SETUP_SECONDS)

    def _squash(self, part: Path) -> None:
        plain = ["-noI", "-noD", "-noF", "-noX", "-no-duplicates", "-no-progress", "-quiet"]
        output(["sh", "-c", 'tar=$1; shift; exec sqfstar "$@" < "$tar"', "sh", self.tar,
                *plain, part], SETUP_SECONDS)  # fmt: skip

    def _index(self, part: Path) -> None:
        program = self.tools.ratarmount() / "ratarmount"
        output([program, "--no-mount", "--index-file", part, self.tar], SETUP_SECONDS)

    def warm(self) -> None:
        """Reads the archive and all forms that are made, so that the page cache is warm."""
        for path in sorted(self.base.glob(f"{self.name}.*")):
            if path.is_dir():
                output([self.tools.walker, "read-fstat", path], SETUP_SECONDS)
                output([self.tools.walker, "stat", path], SETUP_SECONDS)
            else:
                with open(path, "rb", buffering=0) as file:
                    while file.read(MIB):
                        pass


@dataclass(frozen=True)
class Sizes:
    """The sizes of all works.  `--quick` has small ones, and its figures mean nothing."""

    tree_files: int = 70_000
    tree_bytes: int = 2_000_000_000
    untar_files: int = 70_000
    untar_bytes: int = 600_000_000
    few_empty: int = 100_000
    many_empty: int = 1_000_000
    large_mib: int = 1024
    created: int = 20_000
    written_mib: int = 512
    random_mib: int = 256
    fsyncs: int = 1_000
    gcc_sources: int = 300
    layer_mib: int = 200
    stored: int = 1000
    packed_mib: int = 200


QUICK = Sizes(1_000, 10_000_000, 500, 4_000_000, 2_000, 5_000, 16, 300, 16, 4, 20, 4, 2, 130, 0)


def all_images(base: Path, tools: Tools, sizes: Sizes) -> dict[str, Image]:
    def tree(files: int, total: int) -> Callable[[Path], None]:
        return lambda path: write_archive(path, root_like(files, total))

    def empty(files: int) -> Callable[[Path], None]:
        return lambda path: write_archive(path, flat(files))

    s = sizes
    writers: dict[str, tuple[int, Callable[[Path], None]]] = {
        "tree": (s.tree_files * 11 // 10, tree(s.tree_files, s.tree_bytes)),
        "untar": (s.untar_files * 11 // 10, tree(s.untar_files, s.untar_bytes)),
        "hundred-thousand": (s.few_empty, empty(s.few_empty)),
        "million": (s.many_empty, empty(s.many_empty)),
        "small": (300, tree(250, 2_000_000)),
        "large": (2, lambda path: write_archive(path, [("large", b"0", s.large_mib * MIB)])),
        "debian": (12_500, lambda path: debian.write(path, s.gcc_sources)),
    }
    base.mkdir(parents=True, exist_ok=True)
    return {
        name: Image(name, base, tools, entries, write) for name, (entries, write) in writers.items()
    }


Member = tuple[str, bytes, int]
"""(name, ustar's typeflag, size)."""


def root_like(files: int, total: int) -> Iterator[Member]:
    """A tree like a root file system: directories of 3 to 30 files, three levels deep.

    Half of all files have a hundredth of the mean size, and one file in a hundred has fifty times
    the mean, so that these have half of all bytes.  Every second directory has a symbolic link.
    """
    mean = total / files
    number = directory = 0
    while number < files:
        top, middle = directory // 400, directory // 20 % 20
        if directory % 400 == 0:
            yield f"usr/part{top:02}/", b"5", 0
        if directory % 20 == 0:
            yield f"usr/part{top:02}/group{middle:02}/", b"5", 0
        name = f"usr/part{top:02}/group{middle:02}/dir{directory % 20:02}"
        yield name + "/", b"5", 0
        count = 3 + directory * 7919 % 28
        for i in range(number, min(number + count, files)):
            yield f"{name}/file{i:07}", b"0", _skewed(i, mean)
        if count % 2:
            yield f"{name}/link", b"2", 0
        number += count
        directory += 1


def _skewed(i: int, mean: float) -> int:
    """The size of file i.  The shares times their sizes make the mean: 0.5·0.01 + 0.3·0.3 +
    0.19·2.13 + 0.01·50 = 1; each size varies by a factor of 0.5 to 1.5."""
    place, spread = i * 7919 % 100, 0.5 + i * 104729 % 1000 / 1000
    weight = 0.01 if place < 50 else 0.3 if place < 80 else 2.13 if place < 99 else 50
    return int(mean * weight * spread)


def flat(files: int) -> Iterator[Member]:
    """Empty files, 1,000 in each directory."""
    for i in range(files):
        if i % 1000 == 0:
            yield f"usr/lib/dir{i // 1000:05}/", b"5", 0
        yield f"usr/lib/dir{i // 1000:05}/file{i:07}", b"0", 0


def header(name: str, kind: bytes, size: int) -> bytes:
    fields = [
        name.encode().ljust(100, b"\0"),
        b"0000755\0",
        b"0000000\0" * 2,
        b"%011o\0" % size,
        b"14400000000\0",
        b" " * 8,
        kind,
        (b"../target" if kind == b"2" else b"").ljust(100, b"\0"),
        b"ustar\00000",
    ]
    block = b"".join(fields).ljust(BLOCK, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def write_archive(path: Path, members: Iterator[Member] | list[Member]) -> None:
    with open(path, "wb", buffering=MIB) as out:
        for name, kind, size in members:
            out.write(header(name, kind, size))
            _write_noise(out, size)
            out.write(bytes(-size % BLOCK))
        out.write(bytes(2 * BLOCK))
        out.flush()
        os.fsync(out.fileno())


def _write_noise(out: IO[bytes], size: int) -> None:
    while size > 0:
        piece = min(size, len(PATTERN))
        out.write(PATTERN[:piece])
        size -= piece
