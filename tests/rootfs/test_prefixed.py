"""An upper that fuse-overlayfs made with names `.wh.…`; fuse-overlayfs is the oracle.

This kernel lets everybody make whiteouts, so the names are made as its main.c makes them.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from directories import view_of
from oracle import differences, dump_directory, overlay, run, without_layer

from fusemount.rootfs.treetext import dump_lines

LOW = "mkdir -p d/e opaque/below kept; touch f g d/e/x d/e/y opaque/below/z kept/k stays"
MADE_BY_FUSE_OVERLAYFS = """
mkdir -p d/e opaque
touch .wh.f d/e/.wh.x opaque/.wh..wh..opq opaque/new stays
mknod opaque/.wh..opq c 0 0; touch .wh..wh.plnk
setfattr -n user.fuseoverlayfs.origin -v stays stays
touch -d 2001-02-03 d/e opaque .
"""


def theirs(base: Path) -> list[bytes]:
    (base / "mnt").mkdir()
    words = f"lowerdir={base}/low,upperdir={base}/upper,workdir={base}/work"
    run("fuse-overlayfs", "-o", words, base / "mnt")
    try:
        return dump_directory(base / "mnt")
    finally:
        run("umount", base / "mnt")


def shown(base: Path, layers: list[Path], upper: Path | None, work: Path | None) -> list[bytes]:
    with view_of(layers, upper=upper, work=work) as view:
        return without_layer(list(dump_lines(view, digest=True)))


def test_begun_by_fuse_overlayfs(tmp_path: Path) -> None:
    low, upper, work = (tmp_path / name for name in ("low", "upper", "work"))
    for place in (low, upper, work):
        place.mkdir()
    run("bash", "-ec", LOW, cwd=low)
    run("bash", "-ec", MADE_BY_FUSE_OVERLAYFS, cwd=upper)
    expected = theirs(tmp_path)
    looked_at = shown(tmp_path, [low], upper, None)
    assert not differences(without_xattrs(looked_at), without_xattrs(expected))
    assert (upper / ".wh.f").exists()
    assert shown(tmp_path, [low, upper], None, None) == looked_at
    for _ in range(2):  # the second time it is marked as ours
        assert shown(tmp_path, [low], upper, work) == looked_at
    assert not list(upper.rglob(".wh.*"))
    assert stat.S_ISCHR(os.lstat(upper / "f").st_mode)
    (tmp_path / "kernels").mkdir()
    with overlay([low], tmp_path / "kernel", upper, tmp_path / "kernels") as at:
        assert not differences(dump_directory(at), looked_at)


def without_xattrs(lines: list[bytes]) -> list[bytes]:
    """fuse-overlayfs hides user.fuseoverlayfs.*; mounts by root show them as data."""
    return [b" ".join((*line.split(b" ")[:10], *line.split(b" ")[11:])) for line in lines]


@pytest.mark.parametrize("mark", ["imgmount", "impure"])
def test_in_an_upper_of_ours_or_the_kernels_they_are_files(tmp_path: Path, mark: str) -> None:
    low, upper = tmp_path / "low", tmp_path / "upper"
    for place in (low, upper):
        place.mkdir()
    (low / "f").touch()
    for name in (".wh.f", ".wh..wh..opq", ".wh."):
        (upper / name).touch()
    os.setxattr(upper, f"trusted.overlay.{mark}", b"y")
    with view_of([low], upper=upper, work=tmp_path / "work") as view:
        paths = [line.split(b" ")[0] for line in dump_lines(view)]
    assert paths == [b"/", b"/.wh.", b"/.wh..wh..opq", b"/.wh.f", b"/f"]


def test_a_file_of_a_users_stays(tmp_path: Path) -> None:
    """fuse-overlayfs makes empty files only."""
    upper = tmp_path / "upper"
    (upper / ".wh.dir").mkdir(parents=True)
    (upper / ".wh.full").write_text("of a user's")
    with view_of([tmp_path], upper=upper, work=tmp_path / "work"):
        pass
    assert (upper / ".wh.full").read_text() == "of a user's" and (upper / ".wh.dir").is_dir()
