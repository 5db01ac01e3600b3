"""The text form: any byte survives, hardlinks name their first name, the order is by path."""

from __future__ import annotations

import re
from pathlib import Path

from layers import open_layer, rootfs_of
from tarwriter import TarWriter

from fusemount.escape import escape, format_xattrs
from fusemount.layer.text import index_lines
from fusemount.rootfs.treetext import dump_lines


def unescape(field: bytes) -> bytes:
    return re.sub(rb"\\x(..)", lambda m: bytes.fromhex(m[1].decode()), field)


def test_every_byte_survives() -> None:
    raw = bytes(range(256))
    assert unescape(escape(raw)) == raw
    assert re.fullmatch(rb"[!-~]*", escape(raw))
    assert escape(b"-") == rb"\x2d"
    assert escape(b"a-b\\") == rb"a-b\x5c"
    assert format_xattrs({b"b": b"x,y=z", b"a": b""}) == rb"a=,b=x\x2cy\x3dz"
    assert format_xattrs({}) == b"-"


def test_lines() -> None:
    t = TarWriter().file("b/z", b"abc", mode=0o4711, uid=1, gid=2, mtime_ns=-1)
    t.hardlink("a", "b/z").symlink("s", "-").node("dev", "char", (4, 300), mtime_ns=1)
    t.file("b-", b"", xattrs={"user.x": b"1 2"})
    with rootfs_of([TarWriter().dir(".", mode=0o700).tar(), t.tar()]) as view:
        lines = [line.decode() for line in dump_lines(view, digest=True)]
        below = [line.split(b" ")[0] for line in dump_lines(view, b"//b/")]
    digest = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert lines == [
        "/ d 0700 0 0 0 0.000000000 3 - - - - 0",
        f"/a f 4711 1 2 3 -1.999999999 2 - - - {digest} 1",
        "/b d 0755 0 0 0 0.000000000 2 - - - - 1",
        f"/b/z h 4711 1 2 3 -1.999999999 2 - /a - {digest} 1",
        f"/b- f 0644 0 0 0 0.000000000 1 - - user.x=1\\x202 {empty} 1",
        "/dev c 0644 0 0 0 0.000000001 1 4:300 - - - 1",
        "/s l 0777 0 0 1 0.000000000 1 - \\x2d - - 1",
    ]
    assert below == [b"/b", b"/b/z"]


def test_a_layers_index_as_text() -> None:
    t = TarWriter().file("x y", b"12345", mtime_ns=5).whiteout("gone").symlink("l", "t")
    t.sparse("s", 8192, [(4096, b"d" * 512)], version="S")
    lines = [line.decode() for line in index_lines(open_layer(t.tar()).index)]
    assert lines[0].startswith("file /x\\x20y 100644 0 0 5 0.000000005 ")
    assert [line.split(" ")[0] for line in lines] == ["file", "file", "symlink", "file"]
    assert lines[1].split(" ")[1] == "/.wh.gone"
    assert lines[2].split(" ")[10] == "t"
    assert re.fullmatch(r"4096\+512@\d+", lines[3].split(" ")[13])


def test_an_upper_that_is_only_looked_at(tmp_path: Path) -> None:
    tars = [TarWriter().file("a", b"1").file("b", b"2").tar()]
    upper, work = tmp_path / "upper", tmp_path / "work"
    with rootfs_of(tars, upper=upper, work=work) as view:
        view.write(view.lookup(1, b"a"), 0, b"changed")
        view.unlink(1, b"b")
        seen = list(dump_lines(view, digest=True))
    before = sorted(p.name for p in tmp_path.iterdir())
    with rootfs_of(tars, upper=upper) as view:
        assert list(dump_lines(view, digest=True)) == seen
    assert sorted(p.name for p in tmp_path.iterdir()) == before
