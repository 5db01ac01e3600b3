"""Changes that native/upper/change.h declines, so that the view does them."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest
from layers import rootfs_of
from tarwriter import TarWriter

from fusemount.rootfs import AttrChange, Caller
from fusemount.rootfs.objectmarks import ACL_ACCESS, ACL_DEFAULT, OVERRIDE_STAT
from fusemount.rootfs.upper import Upper
from fusemount.rootfs.view import kept_descriptors

ROOT = Caller(0, 0)
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")


def acl(*entries: tuple[int, int, int]) -> bytes:
    """An ACL as the kernel passes it: (tag, permissions, id)."""
    packed = b"".join(
        tag.to_bytes(2, "little") + bits.to_bytes(2, "little") + who.to_bytes(4, "little")
        for tag, bits, who in entries
    )
    return (2).to_bytes(4, "little") + packed


OPEN_ACL = acl((1, 7, 2**32 - 1), (2, 7, 55), (4, 7, 2**32 - 1), (16, 7, 2**32 - 1),
               (32, 7, 2**32 - 1))  # fmt: skip


def mode(view_mode: int) -> int:
    return stat.S_IMODE(view_mode)


def test_r34_a_default_acl_takes_the_umasks_place(tmp_path: Path) -> None:
    tar = TarWriter().dir("plain").dir("acl", xattrs={ACL_DEFAULT.decode(): OPEN_ACL}).tar()
    with rootfs_of([tar], upper=tmp_path / "upper", work=tmp_path / "work") as view:
        who = Caller(3, 4, 0o077)
        for name, wanted in ((b"plain", 0o600), (b"acl", 0o666)):
            ino = view.create(view.lookup(1, name), b"f", 0o666, who)
            attr = view.getattr(ino)
            assert (mode(attr.mode), attr.uid, attr.gid) == (wanted, 3, 4)
            on_disk = os.stat(tmp_path / "upper" / os.fsdecode(name) / "f")
            assert (mode(on_disk.st_mode), on_disk.st_uid) == (wanted, 3)
        link = view.mknod(1, b"l", stat.S_IFLNK | 0o777, 0, who, b"target")
        assert mode(view.getattr(link).mode) == 0o777


def test_prepare_brings_a_whole_file_up(tmp_path: Path) -> None:
    tar = TarWriter().file("d/f", b"whole", mtime_ns=7).hardlink("g", "d/f").tar()
    with rootfs_of([tar], upper=tmp_path / "upper", work=tmp_path / "work") as view:
        ino = view.lookup(1, b"g")
        view.copy_up_data(ino)
        view.copy_up_data(ino)
        assert view.getattr(ino).mtime_ns == 7
        assert os.path.samefile(tmp_path / "upper/d/f", tmp_path / "upper/g")
        assert (tmp_path / "upper/g").read_bytes() == b"whole"
        assert view.native is not None
        fd = view.native.pin(ino)
        assert os.pread(fd, 9, 0) == b"whole"
        view.native.unpin(ino)
    with rootfs_of([tar]) as view, pytest.raises(OSError) as refused:
        view.copy_up_data(view.lookup(1, b"g"))
    assert refused.value.errno == errno.EROFS


def test_r29_orphans_end_with_the_view(tmp_path: Path) -> None:
    tar = TarWriter().file("f", b"lower").file("g", b"lower").tar()
    with rootfs_of([tar], upper=tmp_path / "upper", work=tmp_path / "work") as view:
        for name in (b"f", b"g"):
            ino = view.lookup(1, name)
            view.tree.remember(ino)
            view.unlink(1, name)
            view.write(ino, 5, b"!")
            assert view.read(ino, 0, 9) == b"lower!"
        view.setattr(ino, AttrChange(size=2))
        view.link(ino, 1, b"back")  # from the work directory to a free name
        assert view.read(ino, 0, 9) == b"lo"
        assert len(os.listdir(tmp_path / "work/work")) == 1
    assert os.listdir(tmp_path / "work/work") == []
    assert (tmp_path / "upper/back").read_bytes() == b"lo"


def test_r34_chown_drops_what_it_must_where_an_acl_declines(tmp_path: Path) -> None:
    odd = {ACL_ACCESS.decode(): OPEN_ACL, "security.capability": CAPABILITY}
    tar = TarWriter().file("f", b"", mode=0o6777, xattrs=odd).tar()
    with rootfs_of([tar], upper=tmp_path / "upper", work=tmp_path / "work") as view:
        ino = view.lookup(1, b"f")
        view.setattr(ino, AttrChange(mode=0o6710))
        assert view.tree.getxattr(ino, ACL_ACCESS) != OPEN_ACL  # chmod has changed its mask
        assert b"security.capability" in view.tree.xattrs(ino)
        view.setattr(ino, AttrChange(uid=5, gid=6, mtime_ns=9))
        attr = view.getattr(ino)
        assert (mode(attr.mode), attr.uid, attr.gid, attr.mtime_ns) == (0o710, 5, 6, 9)
        assert b"security.capability" not in view.tree.xattrs(ino)
    st = os.stat(tmp_path / "upper/f")
    assert (mode(st.st_mode), st.st_uid, st.st_mtime_ns) == (0o710, 5, 9)
    assert "security.capability" not in os.listxattr(tmp_path / "upper/f")


def test_owners_beside_the_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without privilege, set-id bits are kept in an xattr too."""
    monkeypatch.setattr(Upper, "_probe_prefix", lambda _: b"user.overlay.")
    tar = TarWriter().file("f", b"lower", mode=0o400).tar()
    places = {"upper": tmp_path / "upper", "work": tmp_path / "work"}
    with rootfs_of([tar], **places) as view:
        made = view.create(1, b"made", 0o444, ROOT)
        assert mode(view.getattr(made).mode) == 0o444
        assert os.getxattr(tmp_path / "upper/made", OVERRIDE_STAT) == b"0:0:0444"
        view.setattr(made, AttrChange(mode=0o4111, size=3))
        view.write(view.lookup(1, b"f"), 5, b"!")
        view.rename(1, b"f", 1, b"g", 0)
        seen = {n: mode(view.getattr(view.lookup(1, n)).mode) for n in (b"made", b"g")}
        assert seen == {b"made": 0o4111, b"g": 0o400}
    assert (tmp_path / "upper/g").read_bytes() == b"lower!"
    with rootfs_of([tar], **places) as view:
        assert {n: mode(view.getattr(view.lookup(1, n)).mode) for n in seen} == seen
        assert view.getattr(view.lookup(1, b"made")).size == 3


def test_a_copy_up_that_fails_halfway_leaves_nothing(tmp_path: Path) -> None:
    tar = TarWriter().file("a", b"1").hardlink("b", "a").hardlink("c", "a").tar()
    upper = tmp_path / "upper"
    with rootfs_of([tar], upper=upper, work=tmp_path / "work") as view:
        ino = view.lookup(1, b"a")
        last = view.tree.names(ino)[-1][1].decode()
        (upper / last).mkdir()  # only this test can make it
        with pytest.raises(FileExistsError):
            view.write(ino, 0, b"2")
        assert os.listdir(upper) == [last]
        assert os.listdir(tmp_path / "work/work") == []
        assert view.read(ino, 0, 9) == b"1"
        (upper / last).rmdir()
        view.write(ino, 0, b"2")
        assert sorted(os.listdir(upper)) == ["a", "b", "c"]


def test_r41_descriptors_leave_room_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    for soft, kept in ((20, 64), (1024, 256), (20_000, 4096), (-1, 4096)):
        monkeypatch.setattr("resource.getrlimit", lambda _, soft=soft: (soft, soft))
        assert kept_descriptors() == kept


@pytest.mark.parametrize("change", ["write", "chmod"])
def test_a_set_of_too_many_hardlinks_does_not_come_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """All names are linked in one step, so the number of names has a limit."""
    monkeypatch.setattr("fusemount.rootfs.copyupnodes.LINKS_MAX", 2)
    tar = TarWriter().file("a", b"data").hardlink("b", "a").file("c", b"data").hardlink("d", "c")
    with rootfs_of(
        [tar.hardlink("e", "c").tar()], upper=tmp_path / "upper", work=tmp_path / "work"
    ) as view:
        for name, number in ((b"a", 0), (b"c", errno.EMLINK)):
            ino = view.lookup(1, name)
            try:
                if change == "write":
                    view.write(ino, 0, b"x")
                else:
                    view.setattr(ino, AttrChange(mode=0o600))
                failed = 0
            except OSError as error:
                failed = error.errno or 0
            assert failed == number
            assert view.read(ino, 0, 9) == (
                b"xata" if change == "write" and not number else b"data"
            )
        assert sorted(os.listdir(tmp_path / "upper")) == ["a", "b"]
        assert os.listdir(tmp_path / "work/work") == []
