"""M 10 of docs/semantics.md: hardlinks of layers in the merged tree."""

from __future__ import annotations

import pytest
from merging import base, fields, inode, names, refused
from tarwriter import TarWriter


@pytest.mark.parametrize("spelling", ["a", "./a", "/a", "x/../a"])
@pytest.mark.parametrize("earlier", [True, False])
def test_m10_hardlink_in_its_layer(spelling: str, earlier: bool) -> None:
    t = TarWriter()
    t = (
        t.file("a", b"1").hardlink("b", spelling)
        if earlier
        else t.hardlink("b", spelling).file("a", b"1")
    )
    a, b = inode([t.tar()], "/a", "/b")
    assert a == b
    assert a[1:] == (2, b"1")


def test_m10_hardlink_to_a_lower_layer() -> None:
    tars = [base().tar(), TarWriter().hardlink("h", "f").tar()]
    f, h = inode(tars, "/f", "/h")
    assert f == h
    assert f[1:] == (2, b"lower f")


def test_m10_hardlink_to_what_the_layer_hides() -> None:
    tars = [base().tar(), TarWriter().whiteout("f").hardlink("h", "f").tar()]
    assert inode(tars, "/h")[0][1:] == (1, b"lower f")
    assert "/f" not in names(tars)


def test_m10_hardlink_has_the_data_of_its_moment() -> None:
    top = TarWriter().hardlink("h", "f").file("f", b"new f").hardlink("h2", "f")
    top.file("t", b"1").hardlink("t1", "t").file("t", b"2")
    tars = [base().tar(), top.tar()]
    assert [x[2] for x in inode(tars, "/h", "/f", "/h2", "/t1", "/t")] == [
        b"lower f", b"new f", b"new f", b"1", b"2",
    ]  # fmt: skip


def test_m10_hardlink_to_a_link_and_to_a_symlink() -> None:
    t = TarWriter().file("a", b"1").hardlink("b", "a").hardlink("c", "b")
    t.symlink("s", "a").hardlink("s2", "s")
    a, c, s, s2 = inode([t.tar()], "/a", "/c", "/s", "/s2")
    assert a == c
    assert a[1] == 3
    assert s == s2
    assert s[0] != a[0]


def test_m10_hardlinks_later_in_a_chain() -> None:
    t = TarWriter().hardlink("c", "b").hardlink("b", "a").file("a", b"1")
    found = inode([t.tar()], "/a", "/b", "/c")
    assert len(set(found)) == 1
    assert found[0][1] == 3


def test_m10_hardlink_to_nothing_is_an_error() -> None:
    assert "nowhere" in refused([TarWriter().hardlink("b", "a").hardlink("a", "b").tar()])
    assert "directory" in refused([TarWriter().dir("a").hardlink("b", "a").tar()])


def test_t24_hardlinks_by_the_hundred_thousand() -> None:
    """A fan and chains are linear; a chain that would take many rounds is refused."""
    fan = TarWriter().file("f", b"1")
    chain = TarWriter()
    for i in range(100_000):
        fan.hardlink(f"l{i}", "f")
        chain.hardlink(f"c{i}", f"c{i + 1}")
    assert fields([fan.tar(), TarWriter().file("g", b"").tar()], "/f")[7] == "100001"
    assert fields([chain.file("c100000", b"1").tar()], "/c0")[7] == "100001"
    zigzag = TarWriter()
    for i in range(0, 400, 2):  # each needs the one before, which needs the one after
        zigzag.hardlink(f"z{i + 1}", f"z{i + 2}")
        zigzag.hardlink(f"z{i}", f"z{i + 1}")
    for i in range(200):
        zigzag.hardlink(f"y{i + 1}", f"y{i}")
    assert "too many times" in refused([zigzag.hardlink("y0", "z0").file("z400", b"").tar()])
