"""Law: the index of a directory has what lstat(2) returns, and marks mean what overlayfs means."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from fusemount import _native
from fusemount._native import (
    MARKS_NAMES,
    MARKS_OWNER,
    MARKS_TRUSTED,
    MARKS_UPPER,
    MARKS_USER,
    MARKS_USERXATTR,
    LayerIndex,
    Member,
)

EVERYTHING = MARKS_TRUSTED | MARKS_USER | MARKS_OWNER | MARKS_NAMES


def scan(path: Path, obeyed: int = EVERYTHING) -> LayerIndex:
    fd = _native.open_layer_root(path)
    try:
        return _native.scan_directory(fd, obeyed)[0]
    finally:
        os.close(fd)


def members(path: Path, obeyed: int = EVERYTHING) -> dict[bytes, Member]:
    index = scan(path, obeyed)
    found = [index.member(i) for i in range(len(index))]
    return {m.path: m for m in found}


def marks_of(path: Path) -> int:
    fd = _native.open_layer_root(path)
    try:
        return _native.root_marks(fd)
    finally:
        os.close(fd)


def build(top: Path) -> None:
    (top / "d/deep").mkdir(parents=True)
    (top / "d/file").write_bytes(b"x" * 5000)
    os.link(top / "d/file", top / "a-link")
    (top / "sparse").write_bytes(b"end")
    os.truncate(top / "sparse", 1 << 20)
    os.symlink("../nowhere", top / "link")
    os.link(top / "link", top / "d/same-link", follow_symlinks=False)
    os.mkfifo(top / "fifo", 0o640)
    os.mknod(top / "char", stat.S_IFCHR | 0o600, os.makedev(300, 70000))
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(top / "socket"))
    (top / os.fsdecode(b"caf\xe9\n")).write_bytes(b"")
    os.chmod(top / "d", 0o3755)
    os.chown(top / "d/file", 7, 2**31 + 5)
    os.setxattr(top / "d/file", "user.tag", b"\0binary")
    for i, path in enumerate(sorted(top.rglob("*"))):
        os.utime(path, ns=(10**9 * i + 7, -5 * 10**9 + i), follow_symlinks=False)


def test_members_are_what_lstat_says(tmp_path: Path) -> None:
    build(tmp_path)
    found = members(tmp_path)
    names = [b""] + [os.fsencode(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")]
    assert sorted(found) == sorted(names)
    seen: dict[int, bytes] = {}
    for path, member in found.items():
        st = os.lstat(os.path.join(os.fsencode(tmp_path), path))
        if st.st_nlink > 1 and not stat.S_ISDIR(st.st_mode) and st.st_ino in seen:
            assert (member.kind, member.link) == ("hardlink", seen[st.st_ino])
            continue
        seen[st.st_ino] = path
        assert (member.mode, member.uid, member.gid) == (st.st_mode, st.st_uid, st.st_gid)
        assert (member.mtime_ns, member.ctime_ns) == (st.st_mtime_ns, st.st_ctime_ns)
        if stat.S_ISREG(st.st_mode):
            assert member.size == st.st_size
        if stat.S_ISCHR(st.st_mode):
            assert member.rdev == (os.major(st.st_rdev), os.minor(st.st_rdev))
    assert found[b"a-link"].xattrs == ((b"user.tag", b"\0binary"),)
    assert found[b"socket"].kind == "socket" and found[b"d/same-link"].kind == "hardlink"


def test_the_order_is_by_name(tmp_path: Path) -> None:
    for name in ("c", "a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").touch()
    index = scan(tmp_path)
    paths = [index.member(i).path for i in range(len(index))]
    assert paths == [b"", b"a", b"b", b"c", b"a/x", b"b/x", b"c/x"]


def test_whiteouts_and_what_is_no_whiteout(tmp_path: Path) -> None:
    os.mknod(tmp_path / "dev", stat.S_IFCHR, 0)
    (tmp_path / "empty").touch()
    os.setxattr(tmp_path / "empty", "trusted.overlay.whiteout", b"")
    (tmp_path / "full").write_bytes(b"x")
    os.setxattr(tmp_path / "full", "trusted.overlay.whiteout", b"")
    for name in (".wh.tar", ".wh..wh..opqX", ".wh..wh.plnk", ".wh..wh..opq"):
        (tmp_path / name).touch()
    (tmp_path / ".wh.dir").mkdir()
    (tmp_path / ".wh.dir/in").touch()
    kinds = {m.path: m.kind for m in members(tmp_path).values()}
    whiteouts = {path for path, kind in kinds.items() if kind == "whiteout"}
    assert whiteouts == {b"dev", b"empty", b"tar", b".wh..opqX", b"dir"}
    assert kinds.keys() - whiteouts == {b"", b"full"}


@pytest.mark.parametrize("name", [".wh.", ".wh..", ".wh..."])
def test_m3_a_whiteout_of_no_name(tmp_path: Path, name: str) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / name).touch()
    with pytest.raises(_native.FormatError, match="whiteout of no name") as error:
        scan(tmp_path)
    assert error.value.member == b"d/" + name.encode()


def test_marks_are_hidden_and_escaped_ones_shown(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.touch()
    for name in ("overlay.origin", "overlay.overlay.mine", "other"):
        os.setxattr(file, f"trusted.{name}", b"v")
    os.setxattr(file, "user.overlay.opaque", b"data")
    os.setxattr(file, "user.containers.override_stat", b"1:2:0600")
    member = members(tmp_path, MARKS_TRUSTED)[b"f"]
    assert dict(member.xattrs) == {
        b"trusted.overlay.mine": b"v",
        b"trusted.other": b"v",
        b"user.overlay.opaque": b"data",
        b"user.containers.override_stat": b"1:2:0600",
    }
    assert member.uid == 0


def test_a_kind_that_is_not_obeyed_is_data_and_counted(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "f").touch()
    os.setxattr(tmp_path / "d", "user.overlay.opaque", b"y")
    os.setxattr(tmp_path / "d", "trusted.overlay.opaque", b"y")
    os.setxattr(tmp_path / "f", "user.containers.override_stat", b"1:2:04755")
    assert not members(tmp_path)[b"d"].xattrs and members(tmp_path)[b"f"].mode & 0o4000
    assert members(tmp_path, MARKS_USER)[b"d"].xattrs == ((b"trusted.overlay.opaque", b"y"),)
    fd = _native.open_layer_root(tmp_path)
    index, _, _, disobeyed, first = _native.scan_directory(fd, MARKS_TRUSTED)
    os.close(fd)
    assert (disobeyed, first) == (2, b"d")
    found = {(m := index.member(i)).path: m for i in range(len(index))}
    assert found[b"d"].xattrs == ((b"user.overlay.opaque", b"y"),)
    assert (found[b"f"].uid, found[b"f"].mode & 0o7777) == (0, 0o644)


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("trusted.overlay.opaque", MARKS_TRUSTED),
        ("trusted.overlay.imgmount", MARKS_TRUSTED | MARKS_UPPER),
        ("trusted.overlay.impure", MARKS_TRUSTED | MARKS_UPPER),
        ("trusted.overlay.imgmount.userxattr", MARKS_USERXATTR),
        ("user.overlay.redirect", MARKS_USER),
        ("user.overlay.imgmount", MARKS_USER | MARKS_OWNER | MARKS_UPPER),
        ("user.containers.override_stat", MARKS_OWNER),
        ("user.fuseoverlayfs.override_stat", MARKS_OWNER),
        ("user.fuseoverlayfs.origin", 0),
        ("user.note", 0),
    ],
)
def test_what_a_root_says(tmp_path: Path, name: str, kinds: int) -> None:
    os.setxattr(tmp_path, name, b"y")
    assert marks_of(tmp_path) == kinds


def test_names_of_files_where_they_are_no_whiteouts(tmp_path: Path) -> None:
    for name in (".wh.tar", ".wh.", ".wh..wh..opq"):
        (tmp_path / name).touch()
    kinds = {m.path: m.kind for m in members(tmp_path, MARKS_TRUSTED).values()}
    assert kinds == {b"": "dir", b".wh.tar": "file", b".wh.": "file", b".wh..wh..opq": "file"}


def test_owners_kept_beside_the_object(tmp_path: Path) -> None:
    expected = {
        "file": (b"1000:1001:04755", stat.S_IFREG | 0o4755, (0, 0)),
        "typed": (b"3:4:0100644:file", stat.S_IFREG | 0o644, (0, 0)),
        "pipe": (b"0:0:600:pipe", stat.S_IFIFO | 0o600, (0, 0)),
        "socket": (b"0:0:600:socket", stat.S_IFSOCK | 0o600, (0, 0)),
        "block": (b"0:6:660:block-8-300", stat.S_IFBLK | 0o660, (8, 300)),
        "char": (b"0:0:666:char-1-3", stat.S_IFCHR | 0o666, (1, 3)),
        "link": (b"0:0:777:symlink", stat.S_IFLNK | 0o777, (0, 0)),
        "nonsense": (b"no:thing", stat.S_IFREG | 0o644, (0, 0)),
    }
    for name, (value, _, _) in expected.items():
        (tmp_path / name).write_bytes(b"target")
        os.chmod(tmp_path / name, 0o644)
        os.setxattr(tmp_path / name, "user.containers.override_stat", value)
    found = members(tmp_path)
    for name, (_, mode, rdev) in expected.items():
        member = found[name.encode()]
        assert stat.filemode(member.mode) == stat.filemode(mode), name
        if rdev != (0, 0):
            assert member.rdev == rdev
        assert member.xattrs == ()
    assert (found[b"file"].uid, found[b"file"].gid) == (1000, 1001)
    assert (found[b"typed"].uid, found[b"typed"].gid) == (3, 4)
    assert found[b"link"].link == b"target"


def test_user_marks_alone(tmp_path: Path) -> None:
    """Also if the root has marks in `trusted.`: then these are data, as with overlayfs."""
    (tmp_path / "d").mkdir()
    os.setxattr(tmp_path, "trusted.overlay.origin", b"x")
    os.setxattr(tmp_path / "d", "trusted.overlay.opaque", b"y")
    os.setxattr(tmp_path / "d", "user.overlay.redirect", b"/e")
    by_root, asked = members(tmp_path, MARKS_TRUSTED)[b"d"], members(tmp_path, MARKS_USER)[b"d"]
    assert dict(by_root.xattrs) == {b"user.overlay.redirect": b"/e"}
    assert dict(asked.xattrs) == {b"trusted.overlay.opaque": b"y"}


def test_another_mount_in_it_is_not_entered(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m/below").touch()
    os.system(f"mount -t tmpfs none {tmp_path}/m && touch {tmp_path}/m/above")
    try:
        assert set(members(tmp_path)) == {b"", b"m", b"m/below"}
    finally:
        os.system(f"umount {tmp_path}/m")


def test_an_index_of_a_directory_is_not_kept(tmp_path: Path) -> None:
    index = scan(tmp_path)
    with open(tmp_path / "x", "wb") as file, pytest.raises(ValueError, match="not kept"):
        index.save(file.fileno())


def test_a_path_beyond_the_limit(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    for _ in range(34):
        os.mkdir("n" * 250, dir_fd=fd)
        below = os.open("n" * 250, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    with pytest.raises(_native.FormatError, match="more than 8192 bytes"):
        scan(tmp_path)
    os.system(f"rm -rf {tmp_path}/n*")
