"""A user exchanges a directory above a mountpoint at the worst moment, between the check and the
system call. Only the directory that was checked is mounted on, unmounted and remounted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from mounted import Command
from oracle import run

import fusemount.daemon.umount as umounting
from fusemount import _native
from fusemount.daemon.remount import remount
from fusemount.daemon.umount import umount_image
from fusemount.errors import MountpointError
from fusemount.mountinfo import MountEntry, mount_at, mounts
from fusemount.settings import Directories

AS_USER = Path(__file__).resolve().parents[1] / "sandbox/as_user.py"

# argv: the directory; when to exchange: "before" mount(2), "after" it, or "back" again after it.
MOUNTING = """
import json, os, sys
from pathlib import Path
import fusemount.daemon.channel as channel, fusemount.daemon.mount as mount
from fusemount.cli.main import main
from fusemount.mountinfo import mounts

base, when = sys.argv[1:3]
os.chdir(base)

def exchange():
    for old, new in (("dir", "aside"), ("other", "dir"), ("aside", "other")):
        os.rename(old, new)

def hook(module, name, before, after):
    real = getattr(module, name)
    def hooked(*arguments):
        before()
        result = real(*arguments)
        after()
        return result
    setattr(module, name, hooked)

nothing = lambda: None
way = "_mount_directly" if os.geteuid() == 0 else "_mount_by_fusermount"
hook(channel, way, nothing if when == "after" else exchange,
     nothing if when == "before" else exchange)
code = main(sys.argv[3:])
print(json.dumps([code, sorted(str(e.mountpoint) for e in mounts() if base in str(e.mountpoint))]))
"""


# argv: the directory, an image. The mount has another path when fusermount3 runs.
UNMOUNTING = """
import os, sys
from pathlib import Path
import fusemount.daemon.mountpoint as mountpoint
from fusemount.cli.main import main
from fusemount.mountinfo import mounts

base = Path(sys.argv[1])
image = sys.argv[2]
assert main([image, str(base / "dir/m")]) == main([image, str(base / "other/m"), "-o", "ro"]) == 0
real = mountpoint._fusermount

def hooked(*arguments):
    for old, new in (("dir", "aside"), ("other", "dir"), ("aside", "other")):
        os.rename(base / old, base / new)
    real(*arguments)

mountpoint._fusermount = hooked
code = main(["umount", str(base / "dir/m")])
mountpoint._fusermount = real
left = [e for e in mounts() if str(base) in str(e.mountpoint)]
print(code, [("ro" in e.options, str(e.mountpoint.relative_to(base))) for e in left], flush=True)
for entry in left:
    main(["umount", "--lazy", str(entry.mountpoint)])
"""


def exchange(base: Path) -> None:
    for old, new in (("dir", "aside"), ("other", "dir"), ("aside", "other")):
        (base / old).rename(base / new)


@pytest.fixture
def base(tmp_path: Path) -> Iterator[Path]:
    """dir/m is the mountpoint; other/m is exchanged for it."""
    base = tmp_path / "base"
    for name in ("dir", "other"):
        (base / name / "m").mkdir(parents=True)
    yield base
    for name in ("dir", "other"):
        run("umount", "--lazy", base / name / "m", check=False)


@pytest.mark.parametrize("when", ["before", "after", "back"])
def test_root_mounts_on_what_it_looked_at(
    when: str, command: Command, busybox_image: Path, base: Path
) -> None:
    (base / "other/m/precious").touch()
    at = base / "dir/m"
    done = subprocess.run(
        [sys.executable, "-c", MOUNTING, base, when, busybox_image, at],
        env=command.environment, capture_output=True, timeout=60,
    )  # fmt: skip
    assert done.stdout, done.stderr
    code, left = json.loads(done.stdout)
    if when == "back":
        assert (code, left) == (0, [str(at)]), done.stderr
        assert os.listdir(base / "other/m") == ["precious"]
        command("umount", at)
    else:
        assert (code, left) == (7, []) and b"moved or replaced" in done.stderr
        assert os.listdir(at) == ["precious"]
    assert not list((command.base / "runtime").iterdir())


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_user_is_told_where_fusermount_mounted(
    when: str, command: Command, busybox_image: Path, base: Path
) -> None:
    """fusermount3 mounts by a path, as that user; nothing stays mounted."""
    for path in (base, *base.rglob("*"), command.base):
        os.chown(path, 65534, 65534)
    for path in (*list(base.parents)[:3], *busybox_image.parents[:1]):
        path.chmod(0o755)
    done = subprocess.run(
        [sys.executable, AS_USER, "65534", "0", sys.executable, "-c", MOUNTING, base,
         when, busybox_image, base / "dir/m"],
        env=command.environment, capture_output=True, timeout=60,
    )  # fmt: skip
    assert done.stdout, done.stderr
    assert json.loads(done.stdout) == [7, []] and b"moved or replaced" in done.stderr


@pytest.fixture
def mounted(command: Command, busybox_image: Path, base: Path) -> Iterator[Path]:
    """An image is mounted on dir/m, and a tmpfs of root on other/m."""
    command(busybox_image, base / "dir/m", "--upper", command.base / "upper")
    run("mount", "-t", "tmpfs", "root's", base / "other/m")
    yield base / "dir/m"
    assert tmpfs(base)


def tmpfs(base: Path) -> MountEntry | None:
    return next(
        (e for e in mounts() if e.source == "root's" and base in e.mountpoint.parents), None
    )


@pytest.fixture
def directories(command: Command) -> Directories:
    return Directories(*(command.base / what for what in ("cache", "state", "runtime", "root")))


@pytest.mark.parametrize("lazy", [False, True])
def test_what_took_its_place_is_not_taken_off(
    lazy: bool, mounted: Path, base: Path, directories: Directories, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(umounting, "_write_out", lambda *_: exchange(base))
    with pytest.raises(MountpointError, match="something else stands there"):
        umount_image(mounted, directories, lazy=lazy)
    assert (base / "other/m/bin").is_dir()


def in_the_last_moment(call: str, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = getattr(_native, call)

    def hooked(*arguments: object) -> None:
        exchange(base)
        real(*arguments)

    monkeypatch.setattr(_native, call, hooked)


@pytest.mark.parametrize("lazy", [False, True])
def test_a_directory_above_misleads_no_umount(
    lazy: bool, mounted: Path, base: Path, directories: Directories, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_the_last_moment("umount2", base, monkeypatch)
    umount_image(mounted, directories, lazy=lazy)
    assert os.listdir(base / "other/m") == []


def test_a_directory_above_misleads_no_remount(
    mounted: Path, base: Path, directories: Directories, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_the_last_moment("mount", base, monkeypatch)
    remount(mounted, ["ro"], directories)
    other, ours = tmpfs(base), mount_at(base / "other/m")
    assert other and "rw" in other.options
    assert ours and "ro" in ours.options


def test_a_mount_in_use_is_busy(command: Command, mounted: Path) -> None:
    with subprocess.Popen(["sleep", "60"], cwd=mounted) as user:
        done = command("umount", mounted, check=False)
        user.kill()
    assert done.returncode == 7 and "busy" in done.stderr
    assert (mounted / "bin").is_dir()
    command("umount", mounted)


def test_a_user_takes_off_what_was_looked_at(
    command: Command, busybox_image: Path, base: Path
) -> None:
    for path in (base, *base.rglob("*"), command.base):
        os.chown(path, 65534, 65534)
    for path in (*list(base.parents)[:3], *busybox_image.parents[:1]):
        path.chmod(0o755)
    done = subprocess.run(
        [sys.executable, AS_USER, "65534", "0", sys.executable, "-c", UNMOUNTING, base,
         busybox_image],
        env=command.environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.stdout == "0 [(True, 'dir/m')]\n", done
