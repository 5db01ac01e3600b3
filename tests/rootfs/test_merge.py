"""M 1 to M 16 of docs/semantics.md: layers merged into one tree; M 10 is in
test_merged_hardlinks.py.

Cases about names have the expected names in the test.  Where everything matters, the expected tree
is the kernel's overlayfs over layers that were unpacked one by one (tests/oracle.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from imagewriter import oci_layout
from layers import rootfs_of
from merging import TIME, base, contents, fields, inode, names, refused
from oracle import differences, dump_directory, overlay, run, unpack, without_layer
from tarwriter import TarWriter

from fusemount.rootfs.treetext import dump_lines


def check_against_overlayfs(tars: Sequence[bytes], tmp_path: Path) -> None:
    with rootfs_of(tars) as view:
        ours = without_layer(list(dump_lines(view, b"/", True)))
    layers = [unpack(tar, tmp_path / f"layer{i}") for i, tar in enumerate(tars)]
    with overlay(layers, tmp_path / "merged") as merged:
        theirs = dump_directory(merged)
    assert not differences(ours, theirs)


# ---- whiteouts ----------------------------------------------------------------------------


@pytest.mark.parametrize("whiteout_first", [True, False])
def test_m01_whiteout_and_its_name_in_one_layer(whiteout_first: bool, tmp_path: Path) -> None:
    top = TarWriter()
    if whiteout_first:
        top.whiteout("f").file("f", b"new")
    else:
        top.file("f", b"new").whiteout("f")
    tars = [base().tar(), top.tar()]
    assert contents(tars, "/f") == b"new"
    assert "/.wh.f" not in names(tars)


def test_m01_whiteout_hides_only_lower_layers(tmp_path: Path) -> None:
    top = TarWriter().dir(".", mtime_ns=TIME).whiteout("f").dir("d", mtime_ns=TIME)
    top.whiteout("d/sub")
    tars = [base().tar(), top.tar(), TarWriter().file("g", b"g").tar()]
    assert names(tars) == ["/d", "/d/x", "/g", "/l"]


@pytest.mark.parametrize("where", ["before", "after"])
def test_m02_opaque_works_whatever_its_place(where: str) -> None:
    top = TarWriter()
    if where == "before":
        top.opaque("d").file("d/!new", b"1").file("d/new", b"1")
    else:
        top.file("d/!new", b"1").file("d/new", b"1").opaque("d")
    assert names([base().tar(), top.tar()]) == ["/d", "/d/!new", "/d/new", "/f", "/l"]


def test_m02_opaque_root() -> None:
    assert names([base().tar(), TarWriter().opaque("").file("only", b"").tar()]) == ["/only"]


def test_m03_only_the_exact_name_is_opaque() -> None:
    low = base().file("d/.wh..opqX", b"").tar
    with_name = TarWriter().dir("d").file("d/sub2", b"")
    assert "/d/x" in names([base().tar(), with_name.raw(b"").file("d/.wh..wh..opqX", b"").tar()])
    assert low  # a layer cannot contain this name: it would be a whiteout of ".opqX"
    hidden = TarWriter().file("d/.opqX", b"")
    assert names([hidden.tar(), TarWriter().file("d/.wh..opqX", b"").tar()]) == ["/d"]


@pytest.mark.parametrize("name", [".wh.", ".wh..", ".wh..."])
def test_m03_whiteouts_of_no_name_are_errors(name: str) -> None:
    message = refused([base().tar(), TarWriter().file(f"d/{name}", b"").tar()])
    assert message.startswith("layer 1: ")
    assert f"d/{name}" in message
    assert "whiteout of no name" in message


@pytest.mark.parametrize("name", [".wh..wh.plnk", ".wh..wh.orph", ".wh..wh.aufs"])
def test_m03_aufs_bookkeeping_is_skipped(name: str) -> None:
    top = TarWriter().dir(name).file(f"{name}/1.2", b"x").file("d/.wh..wh.x", b"")
    assert names([base().tar(), top.tar()]) == names([base().tar()])


def test_m04_whiteouts_of_nothing_show_nothing() -> None:
    low = TarWriter().whiteout("a").whiteout("no/such/dir").opaque("gone").file("x", b"")
    assert names([low.tar()]) == ["/gone", "/no", "/no/such", "/x"]
    top = TarWriter().whiteout("b").whiteout("absent/c").whiteout("d").whiteout("d/x")
    assert names([base().tar(), top.tar()]) == ["/absent", "/f", "/l"]
    top = TarWriter().whiteout("d/x").whiteout("f/g").whiteout("d").file("n").whiteout("n/a")
    assert names([base().tar(), top.tar()]) == ["/f", "/l", "/n"]


def test_m04_the_parents_of_marks_are_as_overlayfs_shows_them(tmp_path: Path) -> None:
    low = base().dir("d/old", mode=0o711, mtime_ns=TIME)
    top = TarWriter().dir(".", mode=0o755, mtime_ns=TIME)
    top.whiteout("d/x").opaque("new/y").opaque("l/z").opaque("f/g/h").opaque("d/sub/e")
    tars = [low.tar(), top.tar()]
    with rootfs_of(tars) as view:
        ours = [line.split(b" ")[:3] for line in dump_lines(view)]
    layers = [unpack(tar, tmp_path / f"layer{i}") for i, tar in enumerate(tars)]
    with overlay(layers, tmp_path / "merged") as merged:
        theirs = [line.split(b" ")[:3] for line in dump_directory(merged)]
    assert [line[:2] for line in ours] == [line[:2] for line in theirs]
    assert [b"/d", b"d", b"0750"] in ours  # the attributes come from the layer that has an entry


def test_m04_a_member_below_a_directory_named_like_a_whiteout() -> None:
    top = TarWriter().dir(".wh.f").file(".wh.f/z", b"z").file("d/.wh.q/deep/y", b"y")
    assert names([base().tar(), top.tar()]) == [
        "/.wh.f", "/.wh.f/z", "/d", "/d/.wh.q", "/d/.wh.q/deep", "/d/.wh.q/deep/y", "/d/sub",
        "/d/sub/deep", "/d/x", "/l",
    ]  # fmt: skip


def test_m09_names_and_hardlink_targets_end_at_the_root() -> None:
    top = TarWriter().file("t", b"t").hardlink("h", "../../t").hardlink("../h2", "a/../../d/x")
    top.file("../../e", b"e").whiteout("../f").dir("..", mode=0o700)
    tars = [base().tar(), top.tar()]
    assert names(tars) == ["/d", "/d/sub", "/d/sub/deep", "/d/x", "/e", "/h", "/h2", "/l", "/t"]
    assert contents(tars, "/h") == b"t" and contents(tars, "/h2") == b"lower x"
    assert fields(tars, "/")[2] == "0700"


def test_m04_whiteout_in_a_new_directory_leaves_no_phantom() -> None:
    top = TarWriter().dir("n").whiteout("n/phantom").opaque("n").whiteout("n/other")
    assert names([base().tar(), top.tar()])[-1] == "/n"


@pytest.mark.parametrize("mark", ["whiteout", "opaque"])
def test_m05_a_middle_layer_cuts_all_below(mark: str) -> None:
    low = TarWriter().file("a/b/c/old", b"1").file("a/b/old", b"1").file("a/keep", b"")
    middle = TarWriter().whiteout("a/b") if mark == "whiteout" else TarWriter().opaque("a/b")
    tops = [TarWriter().file("a/b/c/new", b"2").tar(), TarWriter().file("a/b/c/top", b"3").tar()]
    found = names([low.tar(), middle.tar(), *tops])
    assert found == ["/a", "/a/b", "/a/b/c", "/a/b/c/new", "/a/b/c/top", "/a/keep"]


@pytest.mark.parametrize("empty", [True, False])
def test_m06_whited_out_and_made_again_is_opaque(empty: bool) -> None:
    top = TarWriter().whiteout("d").dir("d", mode=0o700)
    if not empty:
        top.file("d/new", b"")
    expected = ["/d"] if empty else ["/d", "/d/new"]
    assert names([base().tar(), top.tar()]) == [*expected, "/f", "/l"]


# ---- entries over entries -----------------------------------------------------------------


def test_m07_directory_over_directory(tmp_path: Path) -> None:
    top = TarWriter().dir(".", mode=0o711, mtime_ns=TIME + 5)
    top.dir("d", mode=0o1777, uid=7, gid=8, mtime_ns=TIME + 1, xattrs={"user.k": b"v"})
    top.file("d/y", b"y", mtime_ns=TIME)
    check_against_overlayfs([base().tar(), top.tar()], tmp_path)
    row = fields([base().tar(), top.tar()], "/d")
    assert row[2:5] == ["1777", "7", "8"]
    assert row[10] == "user.k=v"


KINDS = ["file", "dir", "symlink", "char", "fifo"]


@pytest.mark.parametrize("over", KINDS)
@pytest.mark.parametrize("under", KINDS)
def test_m07_any_kind_over_any_kind(under: str, over: str, tmp_path: Path) -> None:
    def layer(kind: str, mark: bytes) -> bytes:
        t = TarWriter().dir(".", mtime_ns=TIME)
        if kind == "char":
            t.node("o", "char", (5, 3), mtime_ns=TIME)
        elif kind == "symlink":
            t.symlink("o", b"to-" + mark, mtime_ns=TIME)
        elif kind == "dir":
            t.dir("o", mtime_ns=TIME).file(b"o/" + mark, b"", mtime_ns=TIME)
        else:
            t.add("o", kind, mark if kind == "file" else b"", mtime_ns=TIME)
        return t.tar()

    check_against_overlayfs([layer(under, b"under"), layer(over, b"over")], tmp_path)


def test_m08_an_entry_below_a_non_directory_replaces_it(tmp_path: Path) -> None:
    top = TarWriter().dir("f", mtime_ns=TIME).file("f/inside", b"1", mtime_ns=TIME)
    check_against_overlayfs([base().tar(), top.dir(".", mtime_ns=TIME).tar()], tmp_path)
    assert names([base().tar(), TarWriter().file("f/inside", b"").tar()])[3:6] == [
        "/d/x",
        "/f",
        "/f/inside",
    ]
    same = TarWriter().file("p", b"").file("p/q", b"")
    assert names([same.tar()]) == ["/p", "/p/q"]


@pytest.mark.parametrize("target", ["real", "/real", "../../real", "./x/../real"])
def test_m08_a_parent_that_is_a_link_of_the_same_layer(target: str) -> None:
    tar = TarWriter().dir("real").symlink("link", target).file("link/x", b"1").tar()
    assert names([tar]) == ["/link", "/real", "/real/x"]
    # inside the root, also if the target of the link does not exist yet
    tar = TarWriter().symlink("link", "/made/here").file("link/x", b"1").tar()
    assert names([tar]) == ["/link", "/made", "/made/here", "/made/here/x"]


def test_m08_a_link_that_is_replaced_through_itself(tmp_path: Path) -> None:
    """The directory of the next member is looked up anew, as after any other member."""
    for between in (False, True):
        tar = TarWriter().dir("d").symlink("d/s", ".").dir("d/s/s")
        tar = tar.file("other") if between else tar
        tar.file("d/s/g", b"1").file("d/s/h", b"2")
        assert names([tar.tar()]) == ["/d", "/d/s", "/d/s/g", "/d/s/h", *["/other"] * between]
        oci_layout(tmp_path / f"image{between}", [tar.tar()], tags=("t",))
        there = tmp_path / f"umoci{between}"
        run("umoci", "raw", "unpack", "--image", f"{tmp_path}/image{between}:t", there)
        assert names([tar.tar()]) == sorted(f"/{p.relative_to(there)}" for p in there.rglob("*"))


def test_m08_a_parent_that_is_a_link_of_a_lower_layer() -> None:
    tars = [base().tar(), TarWriter().file("l/new", b"n").whiteout("l/x").tar()]
    assert names(tars) == ["/d", "/d/sub", "/d/sub/deep", "/d/x", "/f", "/l", "/l/new"]
    assert names(tars, follow=True) == [
        "/d", "/d/new", "/d/sub", "/d/sub/deep", "/f", "/l",
    ]  # fmt: skip


def test_m08_a_loop_of_links_is_an_error() -> None:
    message = refused([TarWriter().symlink("a", "b").symlink("b", "a").file("a/x", b"").tar()])
    assert "loop of symlinks" in message


def test_m09_names_are_normalised() -> None:
    t = TarWriter().file("./a", b"").dir("b/").file("b//c", b"").file("/d", b"").file("e/../g", b"")
    assert names([t.tar()]) == ["/a", "/b", "/b/c", "/d", "/g"]


def test_m09_bytes_that_are_not_utf8_survive() -> None:
    raw = b"caf\xe9\xff\x01"
    with rootfs_of([TarWriter().file(raw, b"1").tar()]) as view:
        assert view.tree.readdir(1, 0, 9)[0][0] == raw


# ---- hardlinks ----------------------------------------------------------------------------


def test_m11_replacing_one_name_leaves_the_others() -> None:
    low = TarWriter().file("a", b"1").hardlink("b", "a").hardlink("c", "a")
    tars = [low.tar(), TarWriter().file("a", b"2").whiteout("c").tar()]
    a, b = inode(tars, "/a", "/b")
    assert a[1:] == (1, b"2")
    assert b[1:] == (1, b"1")
    assert fields([low.tar()], "/a")[7] == "3"


def test_m11_directories_count_their_subdirectories() -> None:
    tars = [base().tar(), TarWriter().dir("d/sub2").whiteout("d/sub").dir("d/sub3").tar()]
    assert fields(tars, "/d")[7] == "4"
    assert fields(tars, "/")[7] == "3"


def test_m12_missing_parents() -> None:
    tars = [base().tar(), TarWriter().file("d/sub/y", b"").file("n/o/p", b"").tar()]
    assert fields(tars, "/d")[2:7] == ["0750", "0", "0", "0", "1600000000.123456789"]
    assert fields(tars, "/n/o")[2:7] == ["0755", "0", "0", "0", "0.000000000"]
    # the entry of the lower layer wins over the implied one, and the last entry over both
    assert fields([*tars, TarWriter().dir("n", mode=0o700).tar()], "/n")[2] == "0700"


def test_m13_duplicates() -> None:
    t = TarWriter().file("a", b"1").file("a", b"22")
    t.dir("d", mode=0o700).file("d/x", b"").dir("d", mode=0o711)
    assert contents([t.tar()], "/a") == b"22"
    assert names([t.tar()]) == ["/a", "/d", "/d/x"]
    assert fields([t.tar()], "/d")[2] == "0711"
    # the directory is in the layer, so the lower one merges with it
    back = TarWriter().file("d", b"a file for a moment").dir("d")
    assert "/d/x" in names([base().tar(), back.tar()])


def test_m14_no_layers_the_same_twice_and_many() -> None:
    with rootfs_of([]) as view:
        assert [*dump_lines(view)] == [b"/ d 0755 0 0 0 0.000000000 2 - - - - -"]
    twice = TarWriter().file("a", b"1").hardlink("b", "a").tar()
    assert inode([twice, twice], "/a", "/b")[0][1] == 2
    many = [TarWriter().file(f"dir/{i:03}", b"%d" % i).whiteout(f"dir/{i - 1:03}").tar()
            for i in range(500)]  # fmt: skip
    assert names(many) == ["/dir", "/dir/499"]
    assert fields(many, "/dir/499")[12] == "499"


def test_m15_overlay_xattrs_of_a_layer_are_data() -> None:
    marks = {"trusted.overlay.opaque": b"y", "user.overlay.opaque": b"y"}
    tars = [base().tar(), TarWriter().dir("d", xattrs=marks).tar()]
    assert "/d/x" in names(tars)
    assert fields(tars, "/d")[10] == "trusted.overlay.opaque=y,user.overlay.opaque=y"


def test_m15_a_device_0_0_of_a_layer_is_a_device() -> None:
    row = fields([base().tar(), TarWriter().node("f", "char", (0, 0)).tar()], "/f")
    assert (row[1], row[8]) == ("c", "0:0")


def test_m16_a_whiteout_leaves_its_directorys_mtime() -> None:
    tars = [base().tar(), TarWriter().whiteout("d/x").tar()]
    assert fields(tars, "/d") == fields([base().tar()], "/d")


# ---- the table of disagreements -----------------------------------------------------------


def test_table_the_roots_entry() -> None:
    assert fields([TarWriter().file("x", b"").tar()], "/")[2] == "0755"
    low = TarWriter().dir(".", mode=0o700, mtime_ns=TIME)
    assert fields([low.tar(), TarWriter().file("x", b"").tar()], "/")[2:7] == [
        "0700", "0", "0", "0", "1600000000.123456789",
    ]  # fmt: skip


@pytest.mark.parametrize("seconds", [-1, -5_000_000_000, 7_300_000_000, 2**40])
def test_table_times_far_away(seconds: int) -> None:
    t = TarWriter().file("x", b"", mtime_ns=seconds * 10**9 + 1, xattrs={"user.empty": b""})
    row = fields([t.tar()], "/x")
    assert row[6] == f"{seconds}.000000001"
    assert row[10] == "user.empty="


def test_overlayfs_agrees_on_a_whole_picture(tmp_path: Path) -> None:
    low = base().file("big", bytes(range(256)) * 5000, mode=0o4755, mtime_ns=TIME)
    low.node("dev0", "block", (7, 300), mtime_ns=TIME).node("pipe", "fifo", mtime_ns=TIME)
    low.file("a/b/c/old", b"1", mtime_ns=TIME).file(
        "cap",
        b"",
        xattrs={"security.capability": bytes.fromhex("0100000200040000000000000000000000000000")},
    )
    for d in ("a", "a/b", "a/b/c"):
        low.dir(d, mtime_ns=TIME)
    low.file("h1", b"linked", mtime_ns=TIME).hardlink("h2", "h1").hardlink("a/h3", "h1")
    mid = TarWriter().dir(".", mtime_ns=TIME).dir("a", mtime_ns=TIME + 1).opaque("a")
    mid.file("a/new", b"2", mtime_ns=TIME).whiteout("h2").dir("d", mtime_ns=TIME, gid=5)
    mid.whiteout("d/x").file("f", b"second", mtime_ns=TIME)
    top = TarWriter().dir(".", mtime_ns=TIME + 9).dir("a", mtime_ns=TIME).whiteout("a/new")
    top.dir("a/b", mtime_ns=TIME).file("a/b/again", b"3", mtime_ns=TIME).symlink(
        "big", "f", mtime_ns=TIME
    )
    check_against_overlayfs([low.tar(), mid.tar(), top.tar()], tmp_path)


def test_a_name_in_the_root_after_one_in_a_directory() -> None:
    """The root's path is empty, and so is a prefix of every other."""
    assert names([TarWriter().file("b/z", b"").file("a", b"").tar()]) == ["/a", "/b", "/b/z"]


def test_symlinks_have_the_mode_that_lstat_shows() -> None:
    assert fields([TarWriter().symlink("l", "x", mode=0o600).tar()], "/l")[2] == "0777"
