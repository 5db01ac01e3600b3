"""Users who can write to a directory of an upper exchange a name in it between any two system calls
of root's daemon, and exchange it back or remove it between any later two.

The operation runs once to count the daemon's calls, looks too; then, under another name, once for
each call before which the name is exchanged, and each later one.  Whatever it answers:

    U1  the other user's objects are what they were: owner, mode, contents, and in the upper;
    U2  the caller gets no descriptor of another's file;
    U3  the mount shows no object of root's as the user's.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest
from interposer import Action, Interposer
from launcher import Launcher
from mounted import Command
from scene import Scene
from tarwriter import TarWriter

BOB, SECRET = 1002, b"bob's thesis"
LOW = 200  # directories of the layers
_ACL = bytes.fromhex(
    "0200000001000700ffffffff02000700e903000004000700ffffffff10000700ffffffff20000700ffffffff"
)


def _layers() -> list[bytes]:
    tar = TarWriter().dir(".").dir("open")
    for n in range(LOW):
        tar.dir(f"open/low{n}")
    return [tar.tar()]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    base = tmp_path_factory.mktemp("users")
    mask = os.umask(0o022)
    try:
        with closing(Interposer(base)) as faults:
            environment = Command(base / "dirs").environment | faults.environment
            with closing(Launcher(environment, base / "log")) as launcher:
                yield Scene(base, launcher, faults, _layers())
    finally:
        os.umask(mask)


def _create(path: Path) -> None:
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
    try:
        assert os.fstat(fd).st_uid != BOB, "U2"
        assert os.read(fd, 100) != SECRET, "U2"
    finally:
        os.close(fd)


def _inherit(directory: Path) -> None:
    os.setxattr(directory, "system.posix_acl_default", _ACL)


def _plain(directory: Path) -> None:
    pass


@dataclass(frozen=True)
class Case:
    """before: in the directory, once.  ready: before each operation.  file: bob's is a file."""

    operation: Callable[[Path], object]
    before: Callable[[Path], object] = _plain
    ready: Callable[[Path], object] = _plain
    file: bool = False
    name: str = "new"


CASES = {
    "create": Case(_create, file=True),
    "create-inheriting": Case(_create, _inherit, file=True),
    "mkdir": Case(lambda p: p.mkdir(0o755)),
    "mkdir-set-gid": Case(lambda p: p.mkdir(0o700), lambda d: d.chmod(0o2777)),
    "mkdir-inheriting": Case(lambda p: p.mkdir(0o700), _inherit),
    "mknod": Case(lambda p: os.mknod(p, stat.S_IFIFO | 0o644)),
    "symlink": Case(lambda p: p.symlink_to("x")),
    "rmdir": Case(os.rmdir, ready=lambda p: p.mkdir()),
    "rmdir-lower": Case(os.rmdir, ready=lambda p: p.chmod(0o777), name="low"),
    "unlink": Case(os.unlink, ready=lambda p: p.touch()),
    "link": Case(lambda p: os.link(p, f"{p}-2"), ready=lambda p: p.touch()),
    "rename": Case(lambda p: p.rename(f"{p}-2"), ready=lambda p: p.touch()),
}


def _bobs(path: Path, *, file: bool) -> None:
    if not file:
        path.mkdir()
    thesis = path if file else path / "thesis"
    thesis.write_bytes(SECRET)
    os.chown(thesis, BOB, BOB)
    os.chown(path, BOB, BOB)
    path.chmod(0o600 if file else 0o700)


def _check(upper: Path, number: int, *, file: bool) -> None:
    """Bob's object, by its inode number, wherever users have put it in the upper."""
    (found,) = (entry.path for entry in os.scandir(upper) if entry.inode() == number)
    st = os.lstat(found)
    assert (st.st_uid, st.st_mode & 0o777) == (BOB, 0o600 if file else 0o700), "U1"
    assert (Path(found) if file else Path(found) / "thesis").read_bytes() == SECRET, "U1"


@pytest.mark.parametrize("name", CASES)
def test_anothers_object_is_not_touched(place: Scene, name: str) -> None:
    case, serial, hits = CASES[name], count(), 0
    shutil.rmtree(place.case, ignore_errors=True)
    place.case.mkdir()
    upper = place.upper / "open"
    with place.mounted("fast") as at:
        (at / "open").chmod(0o777)
        case.before(at / "open")

        def once(n: int, again: int, action: Action) -> int:
            target = f"{case.name}{next(serial)}"
            case.ready(at / "open" / target)
            bobs = upper / f"bobs-{target}"
            _bobs(bobs, file=case.file)
            number = bobs.stat().st_ino
            place.faults.arm_user(upper / target, bobs, at=n, again=again, action=action)
            with suppress(OSError):
                case.operation(at / "open" / target)
            calls = len(place.faults.disarm())
            with suppress(OSError):
                assert (at / "open" / target).lstat().st_uid == 0, "U3"
            _check(upper, number, file=case.file)
            return calls

        calls = once(0, 0, Action.NOTHING)
        # A file that the user removes is gone, as it may be.
        actions = [Action.EXCHANGE] if case.file else [Action.EXCHANGE, Action.EXCHANGE_REMOVE]
        for action in actions:
            for n in range(1, calls + 1):
                for again in (0, n + 1, n + 2):
                    once(n, again, action)
                    hits += place.faults.hit
    assert hits
