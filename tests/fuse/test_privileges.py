"""R 34: who may do what, and what a change removes: set-id bits, capabilities, ACLs.

Each test works on the image of test_changes.py, and ends as those do.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mounted import Command, Workshop
from oracle import dump_directory
from tarwriter import TarWriter
from test_changes import CAPABILITY, at, fails

__all__ = ["at"]
_libc = ctypes.CDLL(None, use_errno=True)


def test_r34_privileges_drop(at: Path) -> None:
    with open(at / "cap", "r+b") as f:
        f.write(b"!!")
    fails(errno.ENODATA, os.getxattr, at / "cap", "security.capability")
    os.chmod(at / "d/a", 0o6755)
    os.chown(at / "d/a", 1, 1)
    assert stat.S_IMODE(os.stat(at / "d/a").st_mode) == 0o755
    os.chmod(at / "d/b", 0o6777)
    with open(at / "d/b", "ab") as out:
        somebody = ["setpriv", "--reuid=9", "--regid=9", "--clear-groups", "echo", "x"]
        subprocess.run(somebody, stdout=out, check=True)
    assert stat.S_IMODE(os.stat(at / "d/b").st_mode) == 0o777


def test_r34_sgid_directories_hand_down(at: Path) -> None:
    os.mkdir(at / "team")
    os.chown(at / "team", 0, 77)
    os.chmod(at / "team", 0o2775)
    (at / "team/file").write_bytes(b"")
    os.mkdir(at / "team/dir")
    os.mkfifo(at / "team/pipe")
    assert {os.stat(at / f"team/{n}").st_gid for n in ("file", "dir", "pipe")} == {77}
    assert os.stat(at / "team/dir").st_mode & stat.S_ISGID
    assert not os.stat(at / "team/file").st_mode & stat.S_ISGID


def test_r34_acls_are_inherited(at: Path) -> None:
    os.mkdir(at / "shared")
    subprocess.run(["setfacl", "-d", "-m", "u:55:rwx,g::r-x", at / "shared"], check=True)
    (at / "shared/file").write_bytes(b"")
    os.mkdir(at / "shared/dir")
    acl = subprocess.run(["getfacl", "-cn", at / "shared/file"], capture_output=True, text=True)
    assert "user:55:rwx" in acl.stdout
    acl = subprocess.run(["getfacl", "-cn", at / "shared/dir"], capture_output=True, text=True)
    assert "default:user:55:rwx" in acl.stdout
    os.chmod(at / "shared/file", 0o600)
    acl = subprocess.run(["getfacl", "-cn", at / "shared/file"], capture_output=True, text=True)
    assert "mask::---" in acl.stdout


def test_r34_acls_are_inherited_where_the_layers_had_the_name(at: Path) -> None:
    subprocess.run(["setfacl", "-d", "-m", "u:55:rwx,g::r-x", at / "d"], check=True)
    for name in ("a", "b"):
        os.unlink(at / "d" / name)
    (at / "d/a").write_bytes(b"again")
    os.mkdir(at / "d/b")
    acl = subprocess.run(["getfacl", "-cn", at / "d/a"], capture_output=True, text=True)
    assert "user:55:rwx" in acl.stdout
    acl = subprocess.run(["getfacl", "-cn", at / "d/b"], capture_output=True, text=True)
    assert "default:user:55:rwx" in acl.stdout


def test_r34_a_chown_to_nobody_is_one_to_the_same_owner(at: Path) -> None:
    """chown(2) with -1 and -1 removes set-id bits, if the caller may; ext4 is the oracle."""
    for where in (at, at.parent):
        for who, mode in ((5, 0o755), (0, 0o755), (9, 0o6755)):
            path = where / "shared" / f"mine{who}"
            path.parent.mkdir(mode=0o755, exist_ok=True)
            path.write_bytes(b"1")
            os.chown(path, 5, 5)
            os.chmod(path, 0o6755)
            pid = os.fork()
            if pid == 0:
                os.chdir(path.parent)  # only root can enter the directories above
                os.setgroups([])
                os.setresgid(who, who, who)
                os.setresuid(who, who, who)
                os._exit(_libc.lchown(os.fsencode(path.name), -1, -1) != 0)
            os.waitpid(pid, 0)
            assert stat.S_IMODE(os.stat(path).st_mode) == mode, (where, who)


def test_r34_root_keeps_the_set_id_bits(at: Path) -> None:
    """A process with CAP_FSETID writes and truncates without removing them, as on a local disk."""
    os.chmod(at / "f", 0o6755)
    with open(at / "f", "ab") as f:
        f.write(b"more")
        f.flush()
        os.fsync(f.fileno())
        Path("/proc/sys/vm/drop_caches").write_text("2")
        assert stat.S_IMODE(os.fstat(f.fileno()).st_mode) == 0o6755
    os.truncate(at / "f", 3)
    assert stat.S_IMODE(os.stat(at / "f").st_mode) == 0o6755


OWNER, GROUP = 5, 8
# (uid, gid, further groups): the owner in and out of the file's group, others, and root
CALLERS = (
    (OWNER, GROUP, ()), (OWNER, 5, (7, GROUP)), (OWNER, 5, (7,)), (9, 9, ()),
    (9, 9, (GROUP, 70)), (9, GROUP, ()), (0, 0, ()),
)  # fmt: skip
MODES = (0o2666, 0o6666, 0o2676, 0o6767, 0o4666)


def as_caller(
    caller: tuple[int, int, tuple[int, ...]], path: Path, call: Callable[[str], object]
) -> int:
    """The errno of a call that a process with these ids makes, 0 if it went well."""
    pid = os.fork()
    if pid == 0:
        uid, gid, groups = caller
        os.chdir(path.parent)  # only root can enter the directories above
        os.setgroups(groups)
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
        try:
            call(path.name)
        except OSError as e:
            os._exit(e.errno or 255)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def write(name: str) -> None:
    with open(name, "r+b") as f:
        f.write(b"x")


def chgrp(name: str) -> None:
    os.chown(name, -1, 7)


CALLS: dict[str, Callable[[str], object]] = {
    "write": write,
    "truncate": lambda name: os.truncate(name, 1),
    "O_TRUNC": lambda name: os.close(os.open(name, os.O_WRONLY | os.O_TRUNC)),
    "chgrp": chgrp,
    "chown to nobody": lambda name: os.chown(name, -1, -1),
}


def named(i: int, mode: int) -> str:
    return f"open/{i}-{mode:o}"


@pytest.fixture
def open_to_all(request: pytest.FixtureRequest, tmp_path: Path, fastpath: bool) -> Iterator[Path]:
    """A file for each caller and mode, in a layer.  Each of CALLS is tried with real set-id bits by
    one door, and with bits in marks (rootfs/harmless.py) by the other."""
    what = request.node.callspec.params.get("what")
    harmless = what is not None and list(CALLS).index(what) % 2 == fastpath
    layer = TarWriter().dir(".", mode=0o755).dir("open", mode=0o777)
    layer.file("open/id", Path("/usr/bin/id").read_bytes(), mode=0o4777)
    for i in range(len(CALLERS)):
        for mode in MODES:
            layer.file(named(i, mode), b"data", mode=mode, uid=OWNER, gid=GROUP)
    workshop = Workshop(Command(tmp_path / "dirs", fastpath), tmp_path, [layer.tar()], harmless)
    with workshop.mounted() as mount:
        yield mount
        seen = dump_directory(mount)
    workshop.check_upper(seen)


@pytest.mark.parametrize("what", CALLS)
def test_r34_set_id_bits_go_as_on_a_local_disk(open_to_all: Path, what: str) -> None:
    """Each caller and mode: for files of the layers, for new files, and on a local disk."""
    seen: list[list[object]] = []
    for top, new in ((open_to_all, False), (open_to_all, True), (open_to_all.parent, True)):
        (top / "open").mkdir(exist_ok=True)
        os.chmod(top / "open", 0o777)
        seen.append([])
        for i, caller in enumerate(CALLERS):
            for mode in MODES:
                path = top / named(i, mode)
                if new:
                    path.unlink(missing_ok=True)
                    path.write_bytes(b"data")
                    os.chown(path, OWNER, GROUP)
                    os.chmod(path, mode)
                failed = as_caller(caller, path, CALLS[what])
                if what == "chown to nobody" and failed == errno.EPERM:
                    failed = 0  # the kernel does not ask FUSE whether this is permitted
                seen[-1].append((caller, oct(mode), failed, oct(os.stat(path).st_mode)))
    below, above, disk = seen
    assert above == disk
    if what != "chown to nobody":  # nothing to change, so nothing is copied up
        assert below == disk


def test_r34_roots_write_takes_a_capability_alone(at: Path) -> None:
    for path in (at / "cap", at.parent / "cap"):
        path.write_bytes(b"#!")
        os.chmod(path, 0o6755)
        os.setxattr(path, "security.capability", CAPABILITY)
        with open(path, "r+b") as f:
            f.write(b"x")
        fails(errno.ENODATA, os.getxattr, path, "security.capability")
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o6755


_PYTHON = "python3 -c 'import os, mmap; fd = os.open(\"{}\", os.O_RDWR{}); {}'"
_WRITES = {
    "write": "echo >> {}",
    "fallocate": "fallocate -l 1M {0} 2>/dev/null || echo >> {0}",  # pyfuse3 has no handler
    "copy_file_range": _PYTHON.format("{0}", "", "os.copy_file_range(fd, fd, 100, 0, 900000)"),
    "direct": _PYTHON.format("{0}", "|os.O_DIRECT", "os.pwrite(fd, mmap.mmap(-1, 4096), 1 << 20)"),
}


@pytest.mark.parametrize("how", _WRITES)
@pytest.mark.parametrize("name", ["id", "own"])
def test_r34_a_set_id_file_that_was_written_runs_without(
    open_to_all: Path, how: str, name: str
) -> None:
    """exec(2) uses the mode of the kernel's inode, which must be up to date; stat(1) asks us.

    For a file of the layers, for a new one, and on a local disk."""
    for top in (open_to_all, open_to_all.parent):
        path = top / "open" / name
        path.parent.mkdir(exist_ok=True, mode=0o755)
        if not path.exists():
            shutil.copy("/usr/bin/id", path)
            os.chmod(path, 0o4777)
            os.sync()
        assert _as_somebody(path.parent, f"./{name} -u") == "0"  # set-id works in this directory
        assert _as_somebody(path.parent, _WRITES[how].format(name)) == ""
        assert _as_somebody(path.parent, f"./{name} -u") == "9", (how, path)
        assert _as_somebody(path.parent, f"stat -c %a {name}") == "777"


def _as_somebody(where: Path, line: str) -> str:
    """The output of a command that uid 9 runs in a directory that it could not reach by its
    path."""
    argv = ["setpriv", "--reuid=9", "--regid=9", "--clear-groups", "sh", "-c", line]
    done = subprocess.run(argv, cwd=where, capture_output=True, text=True)
    assert not done.stderr, done.stderr
    return done.stdout.strip()
