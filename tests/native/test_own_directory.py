"""An own directory is used by its path, so no other user may be able to replace it."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fusemount.beneath import own_directory
from fusemount.errors import NotPermitted


def directory(path: Path, uid: int = 0, mode: int = 0o755) -> Path:
    path.mkdir(parents=True)
    os.chown(path, uid, uid)
    path.chmod(mode)
    return path


def refusals(uid: int, path: Path) -> list[str]:
    """The refusals of own_directory for that user: the directory, a missing one, and a new one."""
    reasons = []
    for name, make in ((path, False), (path / "none", False), (path / "new", True)):
        try:
            os.seteuid(uid)
            os.close(own_directory(name, make=make))
        except FileNotFoundError:
            reasons.append("")
        except NotPermitted as e:
            reasons.append(str(e).removeprefix(f"{name}: must be a directory that only you can "))
        else:
            reasons.append("")
        finally:
            os.seteuid(0)
    return reasons


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A directory that other users can reach; they cannot reach tmp_path."""
    path = Path(tempfile.mkdtemp(prefix="imgmount-test-", dir="/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def test_no_other_user_can_replace_an_own_directory(reachable: Path) -> None:
    user, other = 65532, 65533
    for number, (owner, mode, root, users) in enumerate((
        (0, 0o755, "", ""),
        (0, 0o1777, "", ""),
        (user, 0o755, f"belongs to uid {user}", ""),
        (user, 0o775, f"belongs to uid {user}", ""),  # umask 002
        (user, 0o777, f"belongs to uid {user}", "has mode 0777"),
        (other, 0o755, f"belongs to uid {other}", f"belongs to uid {other}"),
        (other, 0o1777, f"belongs to uid {other}", f"belongs to uid {other}"),
        (0, 0o775, "has mode 0775", "has mode 0775"),
        (0, 0o2777, "has mode 02777", "has mode 02777"),
    )):  # fmt: skip
        above = directory(reachable / f"{number}", owner)
        for uid, why in ((0, root), (user, users)):
            ours = directory(above / f"d{uid}" / "ours", uid)
            os.chown(ours.parent, uid, uid)
            above.chmod(mode)
            expected = f"write to: {above} above it {why}" if why else ""
            assert refusals(uid, ours) == [expected] * 3
            assert (ours / "new").exists() == (not why)


def test_a_symlink_above_an_own_directory_is_followed_if_no_other_user_could_make_it(
    reachable: Path,
) -> None:
    ours, sticky = directory(reachable / "ours/deep"), directory(reachable / "sticky", mode=0o1777)
    theirs = directory(reachable / "theirs", 65533)
    links = {
        "absolute": (reachable / "a", ours.parent, 0, ""),
        "relative": (sticky / "r", "../ours/../ours", 0, ""),
        "twice": (reachable / "t", "sticky/r", 0, ""),
        "a stranger's": (sticky / "s", ours.parent, 65533, "is a symlink of uid 65533"),
        "no matter whose": (reachable / "n", ours.parent, 65533, ""),
        "through theirs": (reachable / "b", "theirs/back", 0, "belongs to uid 65533"),
    }
    (theirs / "back").symlink_to(ours.parent)
    for name, (link, target, uid, why) in links.items():
        link.symlink_to(target)
        os.chown(link, uid, uid, follow_symlinks=False)
        reasons = refusals(0, link / "deep")
        assert reasons[0].endswith(why) and bool(reasons[0]) == bool(why), name
        assert (ours / "new").exists() == (not why), name
        if not why:
            (ours / "new").rmdir()
    (reachable / "loop").symlink_to("loop")
    for path, number in ((reachable / "loop/x", errno.ELOOP), (reachable / "f/x", errno.ENOTDIR)):
        (reachable / "f").touch()
        with pytest.raises(OSError) as e:
            own_directory(path)
        assert (e.value.errno, e.value.filename) == (number, str(path))


def test_a_directory_that_is_used_by_its_descriptor_may_be_anywhere(reachable: Path) -> None:
    theirs = directory(reachable / "theirs", 65533)
    os.close(own_directory(theirs / "ours", by_descriptor=True))
    with pytest.raises(NotPermitted):
        own_directory(theirs, by_descriptor=True)
    directory(theirs / "wide", mode=0o755)
    os.close(own_directory(theirs / "wide", by_descriptor=True))
    assert stat.S_IMODE((theirs / "wide").stat().st_mode) == 0o755
