"""Law: an odd archive that GNU tar and bsdtar unpack in the same way is read as they read it; where
they and the container engines differ, as the engines read it.

In each case programs unpack a tar, and the index must have the files that are on disk then.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from imagewriter import oci_layout
from oracle import run
from tarwriter import BLOCK, TarWriter

from fusemount._native import Scanner

Write = Callable[[TarWriter], TarWriter]
Found = dict[str, tuple[str, int, int]]  # path: kind, uid, size of a file

CASES: dict[str, Write] = {
    "two x headers: the last alone": lambda t: (
        t.pax({"path": "other", "uid": "5", "size": "1", "linkpath": "x"})
        .pax({"gid": "7"}).file("real", b"r")
    ),
    "an x header, then a g header": lambda t: (
        t.pax({"path": "named"}).pax({"uid": "7"}, kind="g").file("real", b"r")
    ),
    "two long names": lambda t: (
        t.gnu_long("L", b"one").gnu_long("L", b"two").file("real", b"r")
    ),
    "two long targets": lambda t: (
        t.gnu_long("K", b"one").gnu_long("K", b"two").symlink("l", "x")
    ),
    "a path in PAX, then a long name": lambda t: (
        t.pax({"path": "pax"}).gnu_long("L", b"gnu").file("real", b"r")
    ),
    "a lone zero block": lambda t: t.file("a").raw(bytes(BLOCK)).file("b"),
    "an id of 2^32-1, in the header": lambda t: t.file("a", uid=2**32 - 1, dialect="gnu"),
    "an id of 2^32-1, in PAX": lambda t: t.file("a", pax={"uid": 2**32 - 1}),
    "an id of 2^32-2": lambda t: t.file("a", uid=2**32 - 2, dialect="gnu"),
    "an id of -1": lambda t: t.file("a", uid=-1, dialect="gnu"),
} | {
    f"{dialect}, {flag.decode() or 'NUL'}: {name} with a size": (
        lambda t, dialect=dialect, flag=flag, name=name: t.add(
            name, typeflag=flag, size=BLOCK, link=b"first" if flag in b"12" else b"",
            rdev=(1, 3), dialect=dialect,
        )
    )
    for dialect in ("v7", "gnu", "ustar")
    for flag, name in ((b"5", "d"), (b"5", "d/"), (b"\0", "d/"), (b"7", "d/"),
                       (b"1", "h"), (b"2", "l"), (b"3", "c"), (b"4", "b"), (b"6", "p"))
}  # fmt: skip


def unpacked(command: str, tar: bytes, directory: Path) -> Found:
    directory.mkdir()
    subprocess.run([command, "-xf", "-"], cwd=directory, input=tar, capture_output=True)
    return there(directory)


def there(directory: Path) -> Found:
    found = {}
    for path in sorted(directory.rglob("*")):
        st = path.lstat()
        kind = "dflcbp"[[path.is_dir(), path.is_file(), path.is_symlink(), path.is_char_device(),
                         path.is_block_device(), path.is_fifo()].index(True)]  # fmt: skip
        kind = f"l {os.readlink(path)}" if path.is_symlink() else kind
        found[str(path.relative_to(directory))] = (kind, st.st_uid, st.st_size * (kind == "f"))
    return found


def indexed(tar: bytes) -> Found:
    kinds = {"dir": "d", "file": "f", "char": "c", "block": "b", "fifo": "p"}
    scanner = Scanner()
    scanner.feed(tar)
    index = scanner.finish()
    found: Found = {}
    for m in map(index.member, range(len(index))):
        kind = f"l {m.link.decode()}" if m.kind == "symlink" else kinds.get(m.kind, "")
        same = found.get(m.link.decode()) if m.kind == "hardlink" else None
        found[m.path.decode()] = same or (kind, m.uid, m.size)
    return found


@pytest.mark.parametrize("case", CASES)
def test_t17_as_gnu_tar_and_bsdtar_read_it(tmp_path: Path, case: str) -> None:
    tar = CASES[case](TarWriter("gnu").file("first", b"1")).file("next", b"22").file("last").tar()
    gnu, bsd = unpacked("tar", tar, tmp_path / "gnu"), unpacked("bsdtar", tar, tmp_path / "bsd")
    assert indexed(tar) == gnu
    if not case.startswith(("an x header", "two x")):  # bsdtar refuses the size, or loses g after x
        assert indexed(tar) == bsd


@pytest.mark.parametrize("dialect", ["v7", "gnu", "ustar", "pax"])
def test_t17_a_file_whose_name_ends_in_a_slash_is_a_file(tmp_path: Path, dialect: str) -> None:
    """GNU tar and bsdtar make a directory of it and go on in the file's contents.  Go's reader does
    not, which docker, containerd, podman and umoci use: one digest must not be two images."""
    inner = TarWriter("gnu").file("evil", b"x").tar()[: 2 * BLOCK]
    writer = TarWriter(dialect).add("f/", typeflag=b"0", size=len(inner)).raw(inner)
    tar = writer.add("empty/", typeflag=b"0").add("d/", typeflag=b"\0").file("last").tar()
    oci_layout(tmp_path / "image", [tar], tags=("t",))
    run("umoci", "raw", "unpack", "--image", f"{tmp_path}/image:t", tmp_path / "go")
    assert indexed(tar) == there(tmp_path / "go")
    assert indexed(tar)["f"] == ("f", 0, len(inner)) and "evil" not in indexed(tar)


@pytest.mark.parametrize(
    ("magic", "has_prefix"),
    [
        (b"ustar\x0000", True),
        (b"ustar\0  ", True),
        (b"ustar 00", False),
        (b"ustarx00", False),
        (b"ustar   ", False),
        (b"USTAR\x0000", False),
    ],
)
def test_t17_only_the_whole_magic_gives_a_header_a_prefix(
    tmp_path: Path, magic: bytes, has_prefix: bool
) -> None:
    """As in Go's reader and GNU tar."""
    path = f"{'p' * 60}/{'n' * 90}"
    block = bytearray(TarWriter("ustar").file(path, b"1").tar())
    block[257:265] = magic
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block[:512])
    tar = bytes(block)
    oci_layout(tmp_path / "image", [tar], tags=("t",))
    run("umoci", "raw", "unpack", "--image", f"{tmp_path}/image:t", tmp_path / "go")
    found = [name for name, (kind, *_) in there(tmp_path / "go").items() if kind == "f"]
    assert list(indexed(tar)) == found == [path if has_prefix else path[61:]]
    (tmp_path / "t.tar").write_bytes(tar)
    assert run("tar", "-tf", tmp_path / "t.tar").stdout.decode().split() == found
