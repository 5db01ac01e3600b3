"""Names to mount on that neither layers nor the upper have."""

from __future__ import annotations

from pathlib import Path

import pytest
from layers import rootfs_of
from tarwriter import TarWriter

from fusemount.rootfs.placeholder import add_placeholders
from fusemount.rootfs.treetext import dump_lines


@pytest.mark.parametrize(
    ("layer", "shown"),
    [
        (TarWriter(), "/dev /etc /etc/hosts /proc"),
        (TarWriter().dir("etc", mode=0o700).dir("proc"), "/dev /etc /etc/hosts /proc"),
        (
            TarWriter().symlink("etc/hosts", "../run/x/hosts").symlink("run", "/var/run"),
            "/dev /etc /etc/hosts /proc /run /var /var/run /var/run/x /var/run/x/hosts",
        ),
        (
            TarWriter().symlink("etc", "../../nowhere/.."),
            "/dev /etc /hosts /nowhere /proc",
        ),
        (TarWriter().symlink("etc", "/proc"), "/dev /etc /proc /proc/hosts"),
        (TarWriter().file("etc"), "/dev /etc /proc"),
        (TarWriter().symlink("etc", "b").symlink("b", "etc"), "/b /dev /etc /proc"),
        (TarWriter().symlink("etc/hosts", "d/" * 2000), "/dev /etc /etc/hosts /proc"),
        (TarWriter().symlink("etc/hosts", "n" * 300), "/dev /etc /etc/hosts /proc"),
    ],
)
def test_what_is_missing_is_shown(layer: TarWriter, shown: str) -> None:
    with rootfs_of([layer.tar()]) as view:
        add_placeholders(view.tree, ["/proc", "/dev"], ["/etc/hosts"])
        view.tree.check()
        lines = [line.split(b" ") for line in dump_lines(view)]
    assert b" ".join(line[0] for line in lines[1:]).decode() == shown


def test_what_is_there_stays(tmp_path: Path) -> None:
    layer = TarWriter().dir("etc", mode=0o700).file("etc/hosts", b"mine", mode=0o600).tar()
    with rootfs_of([layer]) as view:
        before = list(dump_lines(view))
        add_placeholders(view.tree, ["/etc"], ["/etc/hosts"])
        assert list(dump_lines(view)) == before
