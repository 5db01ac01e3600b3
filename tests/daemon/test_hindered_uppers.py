"""A user who can open an upper, or owns a directory in it, cannot keep others from using it; and
still an upper has only one mount (rootfs/upperlock.py, rootfs/upperopen.py)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from hangingfs import hanging
from imagewriter import docker_archive
from mounted import Command, mounted
from oracle import run
from tarwriter import TarWriter

from fusemount import _native
from fusemount.capture import changed
from fusemount.daemon import background, handover, mountrecords
from fusemount.errors import UpperError
from fusemount.rootfs import upperlock, upperopen
from fusemount.rootfs.upper import Upper
from fusemount.settings import Directories

STRANGER = 65533
_LOCK = """
import fcntl, os, sys
for path in sys.argv[1:]:
    fcntl.flock(os.open(path, os.O_RDONLY), fcntl.LOCK_EX)
print("locked", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def image(tmp_path: Path) -> Path:
    tmp_path.chmod(0o755)
    for above in tmp_path.parents[:2]:
        above.chmod(above.stat().st_mode & 0o7777 | 0o011)
    return docker_archive(tmp_path / "image.tar", [TarWriter().dir("d").file("d/f", b"f").tar()])


@contextmanager
def locked(*paths: Path) -> Iterator[None]:
    """The paths are locked by a user who may only read the directories."""
    who = ["setpriv", f"--reuid={STRANGER}", f"--regid={STRANGER}", "--clear-groups"]
    words = [*who, sys.executable, "-c", _LOCK, *paths]
    holder = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "locked\n"
        yield
    finally:
        holder.communicate()


def second_mount(command: Command, image: Path, upper: Path, work: Path, at: Path) -> str:
    """The error line of a mount whose upper is mounted already."""
    at.mkdir(exist_ok=True)
    done = command(image, at, "--upper", upper, "--work", work, check=False, seconds=8)
    if not done.returncode:
        command("umount", at)
    assert done.returncode == 8, done
    return done.stderr


def test_readers_share_an_upper(tmp_path: Path) -> None:
    """Readers are this user and root, whose lock is in /proc/locks."""
    (tmp_path / "u").mkdir()
    (tmp_path / "r1").mkdir()
    (tmp_path / "r2").mkdir()
    one = Upper(tmp_path / "u", None, lock_directories=(tmp_path / "r1",))
    two = Upper(tmp_path / "u", None, lock_directories=(tmp_path / "r2", tmp_path / "r1"))
    with pytest.raises(UpperError, match="in use"):
        Upper(tmp_path / "u", tmp_path / "w", lock_directories=(tmp_path / "r2",))
    one.close()
    assert not list((tmp_path / "r1").iterdir())
    two.close()
    Upper(tmp_path / "u", tmp_path / "w", lock_directories=(tmp_path / "r1",)).close()
    assert not list((tmp_path / "r1").iterdir()) and not list((tmp_path / "r2").iterdir())
    run("mount", "-t", "tmpfs", "-o", "ro", "none", tmp_path / "r1")
    try:
        Upper(tmp_path / "u", None, lock_directories=(tmp_path / "r1",)).close()
    finally:
        run("umount", tmp_path / "r1")


def test_a_strangers_lock_keeps_nobody_out(command: Command, image: Path, tmp_path: Path) -> None:
    upper, work, at = tmp_path / "up", tmp_path / "wk", tmp_path / "mnt"
    (work / "work").mkdir(parents=True)  # as an older version, or the user, may have left it
    upper.mkdir()
    options = ("--upper", upper, "--work", work)
    with locked(upper, work, work / "work"):
        with mounted(command, image, at, *options):
            (at / "new").write_text("new")
            # The lock does not let a second mount in either.
            error = second_mount(command, image, upper, tmp_path / "wk2", tmp_path / "m2")
            assert "in use" in error
        assert command("diff", upper).stdout == "A /new\n"
        command("commit", upper, "x:1", "-o", f"docker-archive:{tmp_path}/out.tar")
        with mounted(command, image, at, *options, "-o", "ro"):
            assert (at / "new").read_text() == "new"
    assert (work / "work").stat().st_mode & 0o777 == 0o700
    assert not list((tmp_path / "runtime").iterdir())


def test_one_upper_has_one_mount(command: Command, image: Path, tmp_path: Path) -> None:
    """A second mount fails by another path, with another work or another runtime directory."""
    upper, work, bound = tmp_path / "up", tmp_path / "wk", tmp_path / "bound"
    bound.mkdir()
    with mounted(command, image, tmp_path / "mnt", "--upper", upper, "--work", work):
        run("mount", "--bind", upper, bound)
        try:
            for place in (upper, bound):
                error = second_mount(command, image, place, tmp_path / "wk2", tmp_path / "m2")
                assert error.count("\n") == 1 and "in use by another mount" in error
        finally:
            run("umount", bound)
        other = tmp_path / "up2"
        assert "in use" in second_mount(command, image, other, work, tmp_path / "m2")


def test_those_without_a_runtime_directory_in_common_meet_too(tmp_path: Path) -> None:
    one, two = (Upper, tmp_path / "r1"), (Upper, tmp_path / "r2")
    first = one[0](tmp_path / "u", tmp_path / "w1", lock_directories=(one[1],))
    try:
        with pytest.raises(UpperError, match=f"in use by another mount .process {os.getpid()}"):
            two[0](tmp_path / "u", tmp_path / "w2", lock_directories=(two[1],))
        # A user cannot see the descriptors of root's processes, and looks at the lock file.
        os.chown(tmp_path / "u", STRANGER, STRANGER)
        tmp_path.chmod(0o755)
        for above in tmp_path.parents[:2]:
            above.chmod(above.stat().st_mode & 0o7777 | 0o011)
        (tmp_path / "home").mkdir()
        os.chown(tmp_path / "home", STRANGER, STRANGER)
        script = f"""
from pathlib import Path
from fusemount.rootfs.upper import Upper
from fusemount.settings import Directories
base = Path({str(tmp_path)!r})
try:
    Upper(base / "u", base / "home/w", lock_directories=(base / "home/run", base / "r1"))
except Exception as error:
    print(error)
"""
        who = [f"--reuid={STRANGER}", f"--regid={STRANGER}", "--clear-groups"]
        done = subprocess.run(["setpriv", *who, sys.executable, "-c", script], text=True,
                              capture_output=True, cwd="/", env=_reachable())  # fmt: skip
        assert "in use by another mount" in done.stdout, done
    finally:
        first.close()


def _reachable() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}


@contextmanager
def users_mount(at: Path) -> Iterator[None]:
    """A mount as fusermount3 makes it for a user on the user's directory: it shuts root out."""
    fd = os.open("/dev/fuse", os.O_RDWR)
    data = f"fd={fd},rootmode=40000,user_id={STRANGER},group_id={STRANGER}"
    _native.mount("theirs", at, "fuse.theirs", 0, data)
    try:
        yield
    finally:
        os.close(fd)
        run("umount", "--lazy", at)


def test_a_users_mount_in_the_upper_is_not_entered(
    command: Command, image: Path, tmp_path: Path, fastpath: bool
) -> None:
    upper, at = tmp_path / "up", tmp_path / "mnt"
    (upper / "theirs").mkdir(parents=True)
    (upper / "theirs/below").write_text("below")
    command = Command(tmp_path, fastpath)
    with users_mount(upper / "theirs"):
        with mounted(command, image, at, "--upper", upper):
            assert (at / "theirs/below").read_text() == "below"
            (at / "d/f").write_text("copied up")  # rename(2) from the work directory
        assert sorted(command("diff", upper, "--base", image).stdout.splitlines()) == [
            "A /theirs", "A /theirs/below", "C /d", "C /d/f"
        ]  # fmt: skip
        command("commit", upper, "x:1", "-o", f"docker-archive:{tmp_path}/out.tar")
    with mounted(command, image, at, "--upper", upper), users_mount(upper / "theirs"):
        (at / "theirs/below").write_text("while it is served")
        (at / "theirs/more").write_text("more")
        assert "A /theirs/more" in command("diff", at).stdout
    assert (upper / "theirs/more").read_text() == "more"


def test_no_mount_is_handed_on_to_a_clone(tmp_path: Path) -> None:
    """For a clone of a shared mount; systemd makes all mounts shared."""
    run("mount", "-t", "tmpfs", "none", tmp_path)
    try:
        run("mount", "--make-shared", tmp_path)
        (tmp_path / "u/d").mkdir(parents=True)
        (tmp_path / "u/d/below").touch()
        upper = Upper(tmp_path / "u", tmp_path / "w")
        layer = _native.open_layer_root(tmp_path / "u")
        run("mount", "-t", "tmpfs", "none", tmp_path / "u/d")
        for fd in (upper.fd, layer):
            assert os.listdir(f"/proc/self/fd/{fd}/d") == ["below"]
        os.close(layer)
        upper.close()
    finally:
        run("umount", "--recursive", "--lazy", tmp_path)


def test_without_the_privilege_a_mount_in_the_upper_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(fd: int) -> int:
        raise PermissionError

    monkeypatch.setattr(upperopen._native, "clone_mount", refused)
    (tmp_path / "u/d d").mkdir(parents=True)
    with users_mount(tmp_path / "u/d d"), pytest.raises(UpperError) as caught:
        Upper(tmp_path / "u", tmp_path / "w")
    assert str(caught.value) == (
        f"{tmp_path}/u/d d: a file system is mounted there, inside the upper {tmp_path}/u: "
        "unmount it first"
    )
    Upper(tmp_path / "u", tmp_path / "w").close()


def test_more_xattrs_than_can_be_listed(command: Command, image: Path, tmp_path: Path) -> None:
    """A user's file keeps nobody from mounting and committing; its marks count still."""
    disk = tmp_path / "disk"
    disk.mkdir()
    run("mount", "-t", "tmpfs", "none", disk)
    try:
        (disk / "up").mkdir()
        file = disk / "up/many"
        file.write_text("contents")
        for n in range(300):
            os.setxattr(file, f"user.{n:0250}", b"")
        os.setxattr(file, "trusted.overlay.imgmount.set_id", b"4000")
        with pytest.raises(OSError, match="too long"):
            os.listxattr(file)
        with mounted(command, image, tmp_path / "mnt", "--upper", disk / "up") as at:
            assert (at / "many").read_text() == "contents"
            assert (at / "many").stat().st_mode & 0o7777 == 0o4644
            command("commit", at, "x:1", "-o", tmp_path / "out.tar")
    finally:
        run("umount", "--lazy", disk)  # another process may just be making a mount namespace


def _find_changed(path: Path, tmp_path: Path) -> None:
    """What `diff` of another upper does with the record of a mount with an upper at that path."""
    us, started = os.getpid(), mountrecords.start_time(os.getpid()) or 0
    record = mountrecords.Record(
        us, started, "/", "0:0", "i", "", str(path), None, False, 0, ""
    )  # fmt: skip
    mountrecords.prepare(tmp_path / "run")
    mountrecords.register(tmp_path / "run", record)
    with ExitStack() as stack:
        places = Directories(tmp_path, tmp_path, tmp_path / "run")
        changed._find(tmp_path / "other", places, stack)


@pytest.mark.parametrize(
    "look",
    [
        lambda path, _: upperlock.is_free(path, ()),
        lambda path, tmp_path: handover._same(str(tmp_path / "other"), path),
        lambda path, tmp_path: handover._same(str(path), tmp_path / "other"),
        _find_changed,
    ],
    ids=["is_free", "to", "from", "find"],
)
def test_an_upper_that_leads_to_a_file_system_that_hangs(
    tmp_path: Path, look: Callable[[Path, Path], object]
) -> None:
    """A user has put a symlink, into a mount namespace of theirs, where an upper of root's was."""
    for name in ("hang", "other"):
        (tmp_path / name).mkdir()
    path = tmp_path / "up"
    with hanging(tmp_path / "hang", apart=True) as pid:
        path.symlink_to(f"/proc/{pid}/root{tmp_path}/hang/up")
        os.chown(path, STRANGER, STRANGER, follow_symlinks=False)
        assert background.done_in_time(lambda: look(path, tmp_path) and None, 2.0)
