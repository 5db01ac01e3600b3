"""A work directory that other users can change is refused in one line, and nothing in it
changes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from directories import view_of
from imagewriter import docker_archive
from mounted import Command

from fusemount.errors import NotPermitted
from fusemount.rootfs.removal import remove_tree
from fusemount.rootfs.staging import Staging
from fusemount.rootfs.upper import Upper


def _theirs(path: Path) -> None:
    path.mkdir()
    os.chown(path, 65533, 65533)


def _writable(path: Path) -> None:
    path.mkdir()
    path.chmod(0o770)


def _link(path: Path) -> None:
    target = path.with_name("victim")
    target.mkdir(mode=0o700, exist_ok=True)
    (target / "keep").write_text("")
    path.symlink_to(target)


@pytest.mark.parametrize("place", ["w", "w/work"])
@pytest.mark.parametrize(
    ("make", "why"),
    [(_theirs, "it belongs to uid 65533"), (_writable, "its mode is 0770"),
     (_link, "it is a symlink")],
)  # fmt: skip
def test_refused(tmp_path: Path, make: Callable[[Path], None], why: str, place: str) -> None:
    (tmp_path / place).parent.mkdir(mode=0o700, exist_ok=True)
    make(tmp_path / place)
    with pytest.raises(NotPermitted) as caught:
        Upper(tmp_path / "u", tmp_path / "w")
    assert str(caught.value) == (
        f"{tmp_path / place}: must be a directory that only you can write to: {why}"
    )
    assert caught.value.exit_code == 9
    victim = (tmp_path / place).with_name("victim")
    assert not victim.exists() or os.listdir(victim) == ["keep"]


def test_modes_are_set_whatever_the_umask(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        Upper(tmp_path / "u", tmp_path / "w").close()
    finally:
        os.umask(old)
    for path in ("w", "w/work"):
        assert (tmp_path / path).stat().st_mode & 0o777 == 0o700


def test_what_overlayfs_made_is_used(tmp_path: Path) -> None:
    """The kernel gives its directory `work` the mode 0."""
    (tmp_path / "w/work").mkdir(parents=True)
    (tmp_path / "w/work/left").write_text("")
    (tmp_path / "w/work").chmod(0)
    (tmp_path / "w").chmod(0o755)
    Upper(tmp_path / "u", tmp_path / "w").close()
    assert os.listdir(tmp_path / "w/work") == []


def test_a_removal_follows_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process in a directory that is being removed exchanges names in it meanwhile."""
    victim, tree = tmp_path / "victim", tmp_path / "tree"
    victim.mkdir(mode=0o755)
    (victim / "keep").write_text("")
    (tree / "d/e").mkdir(parents=True)
    unlink, swapped = os.unlink, []

    def swap_then(name: bytes, *, dir_fd: int) -> None:
        try:
            unlink(name, dir_fd=dir_fd)
        except IsADirectoryError:
            if not swapped and name == b"d":
                os.rename(tree / "d", tmp_path / "away")
                (tree / "d").symlink_to(victim)
                swapped.append(name)
            raise

    monkeypatch.setattr(os, "unlink", swap_then)
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(OSError):
            remove_tree(fd, b"tree")
    finally:
        os.close(fd)
    assert swapped
    assert victim.stat().st_mode & 0o777 == 0o755
    assert os.listdir(victim) == ["keep"]


def test_the_command_says_so(tmp_path: Path) -> None:
    command, image = Command(tmp_path / "dirs"), docker_archive(tmp_path / "i.tar", [b"\0" * 1024])
    for path in ("u", "m"):
        (tmp_path / path).mkdir()
    _link(tmp_path / ".u.imgmount-work")
    done = command(image, tmp_path / "m", "--upper", tmp_path / "u", check=False)
    assert done.returncode == 9
    assert done.stderr.count("\n") == 1
    assert "it is a symlink" in done.stderr
    assert os.listdir(tmp_path / "victim") == ["keep"]


def test_a_crash_while_a_directory_is_removed_takes_nothing_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user who was in a directory has put another's directory into it, or another's file in its
    place, when root's daemon took it out of the upper and was killed."""
    base, upper, work = tmp_path / "base", tmp_path / "upper", tmp_path / "work"
    for name in ("merged", "own"):
        (base / name).mkdir(parents=True)
        (base / name / "low").write_text("")
    os.chown(base / "own", 1002, 1003)
    os.chmod(base / "own", 0o2751)
    with view_of([base], upper=upper, work=work) as view, monkeypatch.context() as patch:
        patch.setattr(Staging, "leave_dir", lambda *_: None)
        for name in ("merged", "own"):
            view.unlink(view.lookup(1, name.encode()), b"low")
            view.rmdir(1, name.encode())
    merged, own = sorted((work / "work").iterdir(), key=lambda path: path.stat().st_uid)
    assert os.listdir(merged) == os.listdir(own) == ["low"]  # whiteouts
    (own / "share").mkdir()
    (own / "share/thesis").write_text("work of years")
    own.with_name("out-9").write_text("another's file")
    (work / "work/#9/staged").mkdir(parents=True)  # this was ours
    for _ in range(2):
        opened = Upper(upper, work)
        opened.close()
        assert os.listdir(work / "work") == []
        assert sorted(opened.kept) == [b"kept-1", b"kept-2"]
        (kept,) = (path for path in work.glob("kept-*") if path.is_dir())
        assert (kept / "share/thesis").read_text() == "work of years"
        st = kept.stat()
        assert (st.st_mode & 0o7777, st.st_uid, st.st_gid) == (0o2751, 1002, 1003)
    (kept,) = (path for path in work.glob("kept-*") if path.is_file())
    assert kept.read_text() == "another's file"
