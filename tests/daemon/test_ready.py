"""A mount that was reported as ready stays, whatever is missing afterwards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from busyboximage import left_behind
from mounted import Command

# Writes a line "PID NAME" for each import to the file that is the first argument.
WATCHED = """
import os, sys

log = sys.argv.pop(1)

def hook(event, args):
    if event == "import":
        fd = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(fd, f"{os.getpid()} {args[0]}\\n".encode())
        os.close(fd)

sys.addaudithook(hook)
from fusemount.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


# Writes a line for each fork and each start of a program to the file that is the first argument.
STARTED = """
import os, sys

log = sys.argv.pop(1)

def hook(event, args):
    if event.startswith(("subprocess.", "os.exec", "os.posix_spawn", "os.system", "os.fork")):
        fd = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(fd, f"{event} {args}\\n".encode())
        os.close(fd)

sys.addaudithook(hook)
from fusemount.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


# When trio is imported, the address space may grow only by so many MiB (the first argument).  There
# is one malloc arena, because each further thread's would reserve 64 MiB.
LIMITED = """
import os, resource, sys

spare = int(sys.argv.pop(1)) << 20

def hook(event, args):
    if event == "import" and args[0] == "trio._core":
        fd = os.open("/proc/self/statm", os.O_RDONLY)
        now = int(os.read(fd, 100).split()[0]) * resource.getpagesize()
        os.close(fd)
        resource.setrlimit(resource.RLIMIT_AS, (now + spare, now + spare))

sys.addaudithook(hook)
from fusemount.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def use(at: Path) -> None:
    """Requests that the fast path answers, that it asks Python for, and that it declines."""
    assert (at / "etc/motd").read_text() == "hello\n"
    (at / "etc/motd").write_text("changed\n")
    (at / "etc").rename(at / "etc2")
    (at / "bin").chmod(0o700)
    os.setxattr(at / "etc2/second", "user.a", b"b")
    os.symlink("x", at / "link")
    (at / "etc2/second").unlink()
    os.statvfs(at)


def record(command: Command) -> dict[str, object]:
    (path,) = (command.base / "runtime").glob("*.json")
    found: dict[str, object] = json.loads(path.read_text())
    return found


def test_all_is_imported_before_the_fork(
    command: Command, busybox_image: Path, tmp_path: Path, fastpath: bool
) -> None:
    at, log = tmp_path / "m", tmp_path / "log"
    at.mkdir()
    options = ["-o", "fastpath=" + ("on" if fastpath else "off")]
    subprocess.run(
        [sys.executable, "-c", WATCHED, log, *options, busybox_image, at],
        env=command.environment, check=True, timeout=60,
    )  # fmt: skip
    daemon = f"{record(command)['pid']} "
    use(at)
    command("stats", at)
    command("umount", at)
    imports = log.read_text().splitlines()
    assert [line for line in imports if line.startswith(daemon)] == []
    names = {line.split()[1] for line in imports}
    assert "pyfuse3" in names
    assert not names & {"importlib.metadata", "email"}  # 14 ms for pyfuse3's own version


def test_no_other_program_is_started(command: Command, busybox_image: Path, tmp_path: Path) -> None:
    """Root needs no fusermount3: only the daemon and the check of its mount are forked."""
    at, log = tmp_path / "m", tmp_path / "log"
    at.mkdir()
    subprocess.run([sys.executable, "-c", STARTED, log, busybox_image, at],
                   env=command.environment, check=True, timeout=60)  # fmt: skip
    command("umount", at)
    assert log.read_text().splitlines() == ["os.fork ()", "os.fork ()"]


@pytest.mark.parametrize("spare", [2, 500])
def test_short_of_memory(spare: int, command: Command, busybox_image: Path, tmp_path: Path) -> None:
    """One line and an exit code, or a mount that works: never a mount that ends a moment later."""
    at = tmp_path / "m"
    at.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(spare), busybox_image, at],
        env=command.environment | {"MALLOC_ARENA_MAX": "1"},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    if spare < 10:
        assert done.returncode == 1
        assert done.stderr.startswith("imgmount: "), done.stderr
        assert done.stderr.count("\n") == 1, done.stderr
    else:
        use(at)
        command("umount", at)
    assert left_behind(tmp_path) == []
