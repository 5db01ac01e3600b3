"""Directories as layers: compared with the kernel's overlayfs, and cases that it cannot show."""

from __future__ import annotations

import errno
import os
import resource
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from directories import view_of
from layers import open_layer
from oracle import differences, dump_directory, overlay, run, without_layer
from tarwriter import TarWriter

from fusemount.rootfs import Caller, RootFs, open_rootfs
from fusemount.rootfs.treetext import dump_lines

FIRST = r"""
mkdir -p a/b/c d/e x
for i in 1 2 3; do echo f$i > a/f$i; echo g$i > a/b/g$i; echo h$i > d/e/h$i; done
ln a/f1 x/hl && ln a/f1 d/hl2
truncate -s 1M x/sparse && echo data | dd of=x/sparse bs=1 seek=500000 conv=notrunc 2>/dev/null
setfattr -n user.mine -v yes a/f2 && mkfifo x/p && mknod x/dev c 1 3 && ln -s ../a x/link
"""

# changes of a user through the kernel's overlayfs over all rounds before
ROUNDS = [
    r"""
    mv a moved && chmod 600 moved/f2 && chmod 640 x/sparse && mv moved/b d/b2 && rm d/e/h1
    mv x/sparse d/sp2 && ln d/sp2 d/sp3 && setfattr -n user.more -v 1 d/sp3
    rm -r d/e && mkdir d/e && echo new > d/e/new && chown 5:6 moved/f3 && mv moved/f3 moved/f3b
    """,
    r"""
    mv moved again && mv d/b2 again/b3 && mkdir moved && mv again moved/inside
    chmod 611 moved/inside/f3b && touch -d 2001-01-01 d/sp2 && rm x/p && mv d dd && mv dd/e e2
    """,
    r"""
    mv moved/inside top && rmdir moved && mv top moved && mv dd d && chmod 700 d/sp2
    rm -r x && mkdir x && mv moved/b3 x/a && mkdir moved/b3 && echo n > moved/b3/g1
    mv d/b x/y 2>/dev/null || mv e2 d/b
    """,
    "rm -r d && echo file > d && mv x/a a && mkdir -p x/a/b && rm moved/f1 && mv moved x/a/b/deep",
]
OPTIONS = "redirect_dir=on,metacopy=on,index=off"


def rotate(base: Path) -> Iterator[list[Path]]:
    """Stacks of directories, bottom first; each has one more upper of the kernel's than the
    last."""
    stack = [base / "layer0"]
    stack[0].mkdir()
    run("bash", "-ec", FIRST, cwd=stack[0])
    yield stack
    for i, script in enumerate(ROUNDS, 1):
        upper, work, at = base / f"layer{i}", base / f"work{i}", base / "at"
        for path in (upper, work):
            path.mkdir()
        at.mkdir(exist_ok=True)
        lower = ":".join(str(p) for p in reversed(stack))
        words = f"{OPTIONS},lowerdir={lower},upperdir={upper},workdir={work}"
        run("mount", "-t", "overlay", "overlay", "-o", words, at)
        try:
            run("bash", "-ec", script, cwd=at)
        finally:
            run("umount", at)
        stack = [*stack, upper]
        yield stack


@contextmanager
def kernel(stack: Sequence[Path], at: Path) -> Iterator[Path]:
    """A read-only overlay that follows redirects and metacopies."""
    at.mkdir(exist_ok=True)
    empty = at.with_name("nothing")
    empty.mkdir(exist_ok=True)
    lower = ":".join(str(p) for p in (empty, *reversed(stack)))
    run("mount", "-t", "overlay", "overlay", "-o",
        f"ro,redirect_dir=follow,metacopy=on,lowerdir={lower}", at)  # fmt: skip
    # the top directory, which is not a layer, gives the root its attributes
    try:
        yield at
    finally:
        run("umount", at)


def below_root(lines: Sequence[bytes]) -> list[bytes]:
    return [line for line in lines if not line.startswith(b"/ ")]


def test_r31_uppers_of_the_kernel_as_layers(tmp_path: Path) -> None:
    """Renamed directories, attribute-only copies, hardlinks, whiteouts, round after round."""
    for stack in rotate(tmp_path):
        with view_of(stack) as view, kernel(stack, tmp_path / "kernel") as at:
            ours = below_root(without_layer(list(dump_lines(view, digest=True))))
            assert not differences(ours, below_root(dump_directory(at)))


def test_uppers_of_ours_as_layers(tmp_path: Path) -> None:
    """An upper shows the same as the topmost layer, with hardlinks still linked."""
    base, root = tmp_path / "layer0", Caller(0, 0)
    base.mkdir()
    run("bash", "-ec", FIRST, cwd=base)
    stack = [base]
    for i in range(1, 4):
        upper, work = tmp_path / f"layer{i}", tmp_path / f"work{i}"
        with view_of(stack, upper=upper, work=work) as view:
            change(view, root, i)
            shown = list(dump_lines(view, digest=True))
        stack.append(upper)
        with view_of(stack) as view:
            again = without_layer(list(dump_lines(view, digest=True)))
            assert not differences(again, without_layer(shown))


def change(view: RootFs, root: Caller, i: int) -> None:
    x = view.lookup(1, b"x")
    linked = view.lookup(x, b"hl")
    view.write(linked, 0, b"round %d" % i)
    view.link(linked, x, b"another%d" % i)
    old = b"a" if i == 1 else b"moved%d" % (i - 1)
    view.rename(1, old, 1, b"moved%d" % i, 0)
    moved = view.lookup(1, b"moved%d" % i)
    view.mknod(moved, b"sock%d" % i, stat.S_IFSOCK | 0o600, 0, root)
    if i == 2:
        view.unlink(view.lookup(view.lookup(1, b"d"), b"e"), b"h2")
        view.mknod(1, b"a", stat.S_IFDIR | 0o700, 0, root)


def test_m1_to_m6_whiteouts_of_tars_in_directories(tmp_path: Path) -> None:
    low, top = tmp_path / "low", tmp_path / "top"
    for name in ("gone", "stays", "dir/below", "opaque/below", "again/below"):
        (low / name).parent.mkdir(parents=True, exist_ok=True)
        (low / name).touch()
    for name in (".wh.gone", ".wh.stays", "stays", ".wh.absent", "opaque/.wh..wh..opq",
                 "opaque/a", ".wh.again", "again/new"):  # fmt: skip
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).touch()
    with view_of([low, top]) as view:
        paths = [line.split(b" ")[0] for line in dump_lines(view)]
    assert paths == [b"/", b"/again", b"/again/new", b"/dir", b"/dir/below", b"/opaque",
                     b"/opaque/a", b"/stays"]  # fmt: skip


def test_a_middle_layer_cuts(tmp_path: Path) -> None:
    """M 5, with the kernel's marks."""
    layers = [tmp_path / n for n in ("0", "1", "2")]
    for layer in layers:
        (layer / "d/e").mkdir(parents=True)
    (layers[0] / "d/e/low").touch()
    (layers[2] / "d/e/high").touch()
    os.setxattr(layers[1] / "d", "trusted.overlay.opaque", b"y")
    with view_of(layers) as view, overlay(layers, tmp_path / "k") as at:
        ours = without_layer(list(dump_lines(view, digest=True)))
        assert not differences(ours, dump_directory(at))


def test_a_tar_below_a_directory(tmp_path: Path) -> None:
    """A metacopy finds a tar's contents too, sparse ones included."""
    t = TarWriter().file("f", b"contents").file("g", b"12345")
    os.makedirs(tmp_path / "top")
    for name, size in (("f", 8), ("h", 5)):
        with open(tmp_path / "top" / name, "wb") as file:
            file.truncate(size)
        os.setxattr(tmp_path / "top" / name, "trusted.overlay.metacopy", b"")
        os.chmod(tmp_path / "top" / name, 0o711)
    os.setxattr(tmp_path / "top/h", "trusted.overlay.redirect", b"/g")
    from fusemount.layer import open_directories

    layer = open_layer(t.tar())
    (directory,) = open_directories([tmp_path / "top"])
    view = open_rootfs([layer, directory], upper=None, work=None, read_only=True)
    f, h = view.lookup(1, b"f"), view.lookup(1, b"h")
    assert view.read(f, 0, 100) == b"contents" and view.read(h, 1, 3) == b"234"
    assert view.getattr(f).mode == stat.S_IFREG | 0o711
    view.close()
    directory.close()
    layer.close()


def test_a_metacopy_of_nothing(tmp_path: Path) -> None:
    (tmp_path / "top").mkdir()
    os.truncate(os.open(tmp_path / "top/f", os.O_CREAT | os.O_RDWR), 10)
    os.setxattr(tmp_path / "top/f", "trusted.overlay.metacopy", b"")
    with view_of([tmp_path / "top"]) as view:
        f = view.lookup(1, b"f")
        assert view.getattr(f).size == 10
        with pytest.raises(OSError) as error:
            view.read(f, 0, 10)
    assert error.value.errno in (errno.EIO, errno.EINVAL)


def test_two_redirects_to_one_directory(tmp_path: Path) -> None:
    """overlayfs writes no such upper: one directory gets the redirect, and the tree stays a
    tree."""
    low, top = tmp_path / "low", tmp_path / "top"
    (low / "d/e").mkdir(parents=True)
    for name in ("one", "two/three"):
        (top / name).mkdir(parents=True)
        os.setxattr(top / name, "trusted.overlay.redirect", b"/d")
    os.setxattr(top / "two", "trusted.overlay.redirect", b"/d/e")
    with view_of([low, top]) as view:
        paths = [line.split(b" ")[0] for line in dump_lines(view)]
    assert paths == [b"/", b"/one", b"/two", b"/two/three"]


@pytest.mark.parametrize("how", ["removed", "cut", "a fifo", "a directory", "a link"])
def test_a_file_that_changes_under_us_is_an_error(tmp_path: Path, how: str) -> None:
    (tmp_path / "low").mkdir()
    file = tmp_path / "low/f"
    file.write_bytes(b"x" * 10000)
    with view_of([tmp_path / "low"]) as view:
        f = view.lookup(1, b"f")
        if how == "cut":
            os.truncate(file, 5000)
        else:
            file.unlink()
        if how == "a fifo":
            os.mkfifo(file)
        elif how == "a directory":
            file.mkdir()
        elif how == "a link":
            file.symlink_to("/etc/passwd")
        with pytest.raises(OSError) as error:
            view.read(f, 0, 10000)
        assert error.value.errno == errno.EIO


CLOSED = {
    "the file": "chmod 640 a/b/f",
    "its owner": "chown 5 a/b/f",
    "the file by an ACL": "setfacl -m u:1001:--- a/b/f",
    "a directory": "chmod 700 a",
    "a directory by an ACL": "setfacl -m u:1001:--- a",
    "its directory": "chmod 754 a/b",
    "the layer": "chmod 700 .",
    "an ACL that admitted": "setfacl -b a/b/named",
    "moved": "mkdir -m 700 c && mv a/b c/b",
    "another in its place": "mkdir -m 700 c && mv a/b/f c/f && rm -r a/b && mv c a/b",
}
# all that the kernel's overlayfs shows too
STILL_OPEN = [
    "chmod 755 a/b/f",
    "chmod 1777 a a/b .",
    "ln a/b/f a/other && mv a/b/named a/b/n && touch new a/new a/b/new",
    "setfacl -m u:1001:rwx x && setfacl -m g:7:--- x",
    "setfacl -m m::r a/b/d && touch a/b/f",
]


def layer_to_close(tmp_path: Path) -> Path:
    low = tmp_path / "low"
    run("bash", "-ec", """
        umask 022; mkdir -p low/a/b; cd low; echo text > a/b/f; echo text > a/b/named; mkdir x
        chmod 640 a/b/named; setfacl -m u:1001:r a/b/named; mkdir a/b/d
    """, cwd=tmp_path)  # fmt: skip
    return low


@pytest.mark.parametrize("how", CLOSED)
def test_what_was_closed_is_not_read(tmp_path: Path, how: str) -> None:
    low = layer_to_close(tmp_path)
    with view_of([low]) as view:
        directory = view.lookup(view.lookup(1, b"a"), b"b")
        file = view.lookup(directory, b"named" if "named" in CLOSED[how] else b"f")
        run("bash", "-ec", CLOSED[how], cwd=low)
        with pytest.raises(OSError) as error:
            view.read(file, 0, 10)
        assert error.value.errno == errno.EIO


@pytest.mark.parametrize("how", STILL_OPEN)
def test_what_is_open_still_is_read(tmp_path: Path, how: str) -> None:
    low = layer_to_close(tmp_path)
    with view_of([low]) as view:
        file = view.lookup(view.lookup(view.lookup(1, b"a"), b"b"), b"f")
        run("bash", "-ec", how, cwd=low)
        assert view.read(file, 0, 10) == b"text\n"


def test_a_directory_that_was_read_in_is_looked_at_again(tmp_path: Path) -> None:
    low, n = tmp_path / "low", 4000
    (low / "a").mkdir(parents=True)
    for i in range(n):
        (low / f"a/{i}").touch()
        os.truncate(low / f"a/{i}", 1)
    with view_of([low]) as view:
        files = [view.lookup(view.lookup(1, b"a"), b"%d" % i) for i in range(n)]
        assert view.read(files[0], 0, 1) == b"\0"
        (low / "a").chmod(0o700)
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            for file in files[1:]:
                view.read(file, 0, 1)


def test_copy_up_keeps_holes(tmp_path: Path) -> None:
    low, upper = tmp_path / "low", tmp_path / "upper"
    low.mkdir()
    with open(low / "f", "wb") as file:
        file.truncate(64 << 20)
        os.pwrite(file.fileno(), b"middle", 32 << 20)
    with view_of([low], upper=upper, work=tmp_path / "work") as view:
        f = view.lookup(1, b"f")
        assert view.getattr(f).blocks == os.stat(low / "f").st_blocks
        view.write(f, 0, b"start")
    st = os.stat(upper / "f")
    assert st.st_size == 64 << 20 and st.st_blocks <= 64
    with open(upper / "f", "rb") as file:
        assert file.read(5) == b"start" and os.pread(file.fileno(), 6, 32 << 20) == b"middle"


def test_r41_more_files_than_descriptors(tmp_path: Path) -> None:
    low, n = tmp_path / "low", 3000
    low.mkdir()
    for i in range(n):
        (low / f"{i}").write_bytes(b"%d" % i)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = len(os.listdir("/proc/self/fd"))  # other tests of this process may keep some
    resource.setrlimit(resource.RLIMIT_NOFILE, (before + 240, hard))
    try:
        with view_of([low]) as view:
            for i in range(n):
                assert view.read(view.lookup(1, b"%d" % i), 0, 9) == b"%d" % i
            assert len(os.listdir("/proc/self/fd")) < before + 140
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_m14_five_hundred_layers(tmp_path: Path) -> None:
    layers = [tmp_path / f"{i}" for i in range(500)]
    for i, layer in enumerate(layers):
        layer.mkdir()
        (layer / f"only{i}").touch()
        (layer / "all").write_bytes(b"%d" % i)
    with view_of(layers) as view:
        assert len(view.tree.readdir(1, 0, 1000)) == 501
        assert view.read(view.lookup(1, b"all"), 0, 9) == b"499"


def test_the_root_is_the_uppers(tmp_path: Path) -> None:
    low, upper = tmp_path / "low", tmp_path / "upper"
    low.mkdir(mode=0o711)
    upper.mkdir(mode=0o750)
    os.chown(upper, 3, 4)
    with view_of([low], upper=upper, work=tmp_path / "work") as view:
        attr = view.getattr(1)
        assert (stat.S_IMODE(attr.mode), attr.uid, attr.gid) == (0o750, 3, 4)
