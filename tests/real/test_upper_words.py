"""R 27, R 32, R 46: with `metacopy=off` and `redirect_dir=off`, the upper has files with their data
and directories without redirects, so that the kernel's overlayfs needs no mark to show it."""

from __future__ import annotations

import os
from pathlib import Path

import mixedtree
import pytest
from mounted import Command, Workshop
from oracle import differences, dump_directory, overlay, run, unpack
from tarwriter import TarWriter
from twosides import comparable

BIG = 3 << 20

# The mixed tree is below `tree/`; beside it are `far/in` and `a/b/c`, which move, and large files.
SCRIPT = """
cd tree
chmod 600 ../big0 && chown 7:8 f && touch -h -d @1400000002 l && touch -d @1400000001 g
setfattr -n user.new -v 1 d/a && setfattr -x user.k d/a && chmod 640 h1 && ln d/sub/h3 also
mv ../far ../farther && echo more >> ../farther/in/file && mv ../farther/in ../in
mv d moved && echo x > moved/new && rm moved/b && mv moved/sub e/sub  # merged; over a whiteout
mv e/sub/sub up && mv moved up/d && mv up/d/a up/a2 && mkdir d && echo again > d/a
mv sg/sub many && mv many few && rm few/00[0-7] && mv few/sub/x few/x && rmdir few/sub
mv h2 e/h2 && mv suid empty/suid && mv empty full && mv p full/p && mv f full/f
rm -r sg && mkdir sg && mv full sg/full && mv sg/full/f g
mkdir ../made && mv ../made ../a/b/made && mv ../a ../z && mv ../z/b/c ../z/c
mv ../z ../a && rm -r ../a/b/made && mv ../in ../a/b/c
"""

WAYS = ("chmod 600 big0", "touch big1", "setfattr -n user.a -v b big2", "ln big3 other3",
        "mv big4 moved4", "chown 1:1 big5")  # fmt: skip


def tars() -> list[bytes]:
    low = TarWriter().dir(".", mtime_ns=mixedtree.TIME)
    for name in ("a", "a/b", "a/b/c", "far", "far/in"):
        low.dir(name, mtime_ns=mixedtree.TIME)
        if name in ("a/b/c", "far/in"):
            low.file(f"{name}/file", name.encode(), mtime_ns=mixedtree.TIME)
    for i in range(len(WAYS)):
        low.file(f"big{i}", b"0123456789abcdef" * (BIG // 16), mtime_ns=mixedtree.TIME)
    return [low.tar(), *mixedtree.layers("tree/")]


def marks(upper: Path) -> set[str]:
    """The kinds of overlayfs' marks that are in the upper."""
    found = set()
    for at, directories, files in os.walk(upper):
        for name in (*directories, *files):
            for mark in os.listxattr(Path(at, name), follow_symlinks=False):
                if mark.startswith("trusted.overlay."):
                    found.add(mark.removeprefix("trusted.overlay."))
    return found


# (our words, the kernel's words, marks that must be missing)
WORDS = {
    "metacopy=off": ("redirect_dir=on,metacopy=off", {"metacopy"}),
    "redirect_dir=off": ("redirect_dir=nofollow,metacopy=off", {"metacopy", "redirect"}),
}


@pytest.mark.parametrize("words", WORDS)
def test_r27_renames_that_leave_a_plain_upper(tmp_path: Path, fastpath: bool, words: str) -> None:
    kernel, never = WORDS[words]
    layers = [unpack(tar, tmp_path / f"layer{i}") for i, tar in enumerate(tars())]
    with overlay(layers, tmp_path / "merged") as at:
        run("cp", "-a", at, tmp_path / "plain")
    run("bash", "-euc", SCRIPT, cwd=tmp_path / "plain")
    shop = Workshop(Command(tmp_path / "dirs", fastpath), tmp_path, tars())
    with shop.mounted("-o", words) as at:
        run("bash", "-euc", SCRIPT, cwd=at)
        found = differences(comparable(at), comparable(tmp_path / "plain"))
        assert not found, "the mount (ours) and a plain directory (theirs):\n" + found
        before = dump_directory(at)
    assert marks(shop.upper) & {"metacopy", "redirect"} == {"metacopy", "redirect"} - never
    (tmp_path / "kernel-work").mkdir()
    with overlay(layers, tmp_path / "kernel", shop.upper, tmp_path / "kernel-work", kernel) as at:
        found = differences(dump_directory(at), before)
        assert not found, "the kernel's overlayfs (ours) and the mount (theirs):\n" + found
    with shop.mounted("-o", words) as at:
        found = differences(dump_directory(at), before)
        assert not found, "mounted again (ours) and before (theirs):\n" + found


def test_r32_a_changed_mode_brings_the_data_up(tmp_path: Path, fastpath: bool) -> None:
    """With metacopy=off a change of attributes copies up the data; with metacopy=on it does not."""
    shop = Workshop(Command(tmp_path / "dirs", fastpath), tmp_path, tars())
    for word, whole in (("metacopy=off", True), ("metacopy=on", False)):
        with shop.mounted("-o", word) as at:
            for way in WAYS:
                run("sh", "-ec", way, cwd=at)
        for way in WAYS:
            name = way.replace("mv big4 ", "").split()[-1]
            with (shop.upper / name).open("rb") as up:
                st = os.fstat(up.fileno())
                assert (st.st_size, st.st_blocks * 512 >= BIG) == (BIG, whole), (word, way)
                assert (up.read(16) == b"0123456789abcdef") == whole, (word, way)
        run("rm", "-r", shop.upper, shop.work)
