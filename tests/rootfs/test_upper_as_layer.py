"""Law: an upper shows the same as the upper of a mount and as a layer of the next one.

One object or mark of each line of the table in fusemount/rootfs/objects.py.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from directories import view_of
from oracle import differences, run, without_layer

from fusemount.errors import UpperError
from fusemount.rootfs import AttrChange, Caller, RootFs
from fusemount.rootfs.treetext import dump_lines

ROOT = Caller(0, 0)
BASE = """
mkdir -p d/sub opaque/below
echo contents > file; echo gone > gone; echo x > opaque/below/x; echo long > cut; echo h > held
touch d/sub/f; ln file d/linked; echo one > a; ln a b; ln a d/sub/c
"""


def change(view: RootFs) -> None:
    """Changes of every kind that a mount can write."""
    view.setattr(view.lookup(1, b"file"), AttrChange(mode=0o4711, uid=5, gid=6))  # metacopy, links
    for name in (b"cut", b"held", b"a"):
        view.setattr(view.lookup(1, name), AttrChange(mode=0o640))
    view.rename(1, b"d", 1, b"moved", 0)  # redirect
    view.unlink(1, b"gone")  # whiteout
    opaque = view.lookup(1, b"opaque")
    below = view.lookup(opaque, b"below")
    view.unlink(below, b"x")
    view.rmdir(opaque, b"below")
    view.rmdir(1, b"opaque")
    made = view.mknod(1, b"opaque", stat.S_IFDIR | 0o1777, 0, ROOT)
    for name in (b".wh.file", b".wh..wh..opq", b".wh..wh.x", b".wh."):  # files with odd names
        view.create(made, name, 0o600, ROOT)
    view.mknod(1, b"zero", stat.S_IFCHR | 0o620, 0, ROOT)  # special
    view.mknod(1, b"char", stat.S_IFCHR | 0o600, os.makedev(4, 300), ROOT)
    view.mknod(1, b"block", stat.S_IFBLK | 0o600, os.makedev(8, 1), ROOT)
    view.mknod(1, b"fifo", stat.S_IFIFO | 0o600, 0, ROOT)
    view.mknod(1, b"socket", stat.S_IFSOCK | 0o600, 0, ROOT)
    view.mknod(1, b"link", stat.S_IFLNK | 0o777, 0, ROOT, target=b"../nowhere")
    odd = view.create(1, b"odd", 0o600, ROOT)
    for name in ("trusted.overlay.redirect", "user.overlay.opaque", "user.overlay.whiteout",
                 "user.containers.override_stat", "trusted.overlay.imgmount.held"):  # fmt: skip
        view.setxattr(odd, name.encode(), b"0:0:04755")


def crash(upper: Path, prefix: str) -> None:
    """Changes an upper to a state that a crash may leave by the rules of copyup.py."""
    marks = {
        "moved": ("times", b"-1 1234567890123456789"),
        "held": ("held", b"4755 7 -999999999 0100000200000000000000000000000000000000"),
    }
    for name, (mark, value) in marks.items():
        os.setxattr(upper / name, f"{prefix}imgmount.{mark}", value)
    os.truncate(upper / "cut", 2)
    os.unlink(upper / "b")  # of a, b and moved/sub/c only `a` was copied up
    os.unlink(upper / "moved/sub/c")


@pytest.mark.parametrize("prefix", ["trusted.overlay.", "user.overlay."])
def test_an_upper_is_a_layer(tmp_path: Path, prefix: str) -> None:
    base, upper, work = (tmp_path / name for name in ("base", "upper", "work"))
    base.mkdir()
    run("bash", "-ec", BASE, cwd=base)
    users = prefix.startswith("user")
    with view_of([base], upper=upper, work=work, userxattr=users) as view:
        change(view)
        shown = without_layer(list(dump_lines(view, digest=True)))
    check(base, upper, shown)
    crash(upper, prefix)
    with view_of([base], upper=upper) as view:
        shown = without_layer(list(dump_lines(view, digest=True)))
    check(base, upper, shown)
    assert [line.split(b" ")[7] for line in shown if line.startswith(b"/a ")] == [
        b"2" if users else b"3"  # without redirects `moved` is a copy
    ]
    kinds = {line.split(b" ")[0]: line.split(b" ")[1:3] for line in shown}
    assert kinds[b"/zero"] == [b"c", b"0620"] and kinds[b"/held"] == [b"f", b"4755"]


def check(base: Path, upper: Path, shown: list[bytes]) -> None:
    with view_of([base, upper]) as view:
        again = without_layer(list(dump_lines(view, digest=True)))
    assert not differences(again, shown)


def test_a_volatile_upper_of_a_machine_that_stopped(tmp_path: Path) -> None:
    upper = tmp_path / "upper"
    upper.mkdir()
    os.setxattr(upper, "trusted.overlay.imgmount", b"1")
    os.setxattr(upper, "trusted.overlay.imgmount.volatile", b"another boot")
    with pytest.raises(UpperError, match=r"upper: .*volatile.*stopped"), view_of([upper]):
        pass
    boot = Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()
    os.setxattr(upper, "trusted.overlay.imgmount.volatile", boot)
    with view_of([upper]):
        pass
