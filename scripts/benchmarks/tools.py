"""Makes the programs that only benchmarks need, and runs child processes.

Law: all of it lies below one directory, and every child process has a time limit.

This module installs no Debian packages (`scripts/setup bench` does).  Packages of PyPI go into
virtual environments of their own, so that imgmount's environment is the one that users have.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
TOP = HERE.parent.parent
RATARMOUNT = "ratarmount==1.3.0"
MATPLOTLIB = "matplotlib>=3.8"
WALKER_FLAGS = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Werror"]
SETUP_SECONDS = 3600.0
PACKAGES = ["fio", "fuse-overlayfs", "isal", "podman", "skopeo", "squashfs-tools", "squashfuse",
            "umoci", "zstd"]  # fmt: skip
PROGRAMS = ["docker-registry", "fio", "fuse-overlayfs", "gcc", "igzip", "mksquashfs", "openssl",
            "podman", "skopeo", "squashfuse_ll", "tar", "umoci", "zstd"]  # fmt: skip

Command = Sequence[str | Path]


class Failure(Exception):
    """A contestant or a tool failed; the text names it and gives the reason."""


def output(
    command: Command,
    seconds: float,
    *,
    environment: dict[str, str] | None = None,
    cwd: Path | None = None,
    on_timeout: Callable[[], None] = lambda: None,
) -> str:
    """Runs a program that must succeed; its standard output. Raises Failure.

    on_timeout is called before the program is killed, because a process that waits for a FUSE
    daemon ends only after the daemon.
    """
    words = [str(word) for word in command]
    try:
        child = subprocess.Popen(
            words, env=environment, cwd=cwd, stdin=subprocess.DEVNULL, text=True,
            errors="replace", stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
    except OSError as error:
        raise Failure(f"{words[0]}: {error.strerror}") from error
    try:
        printed, complained = child.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        on_timeout()
        raise Failure(f"{words[0]}: not done after {seconds:.0f} s") from None
    finally:
        if child.poll() is None:
            child.kill()
            child.communicate()
    if child.returncode:
        raise Failure(f"{' '.join(words)[:300]}: {complained.strip()[-600:] or printed[-600:]}")
    return printed


@dataclass(frozen=True)
class Tools:
    """The tools that are made in `base`, the directory of --dir."""

    base: Path
    walker: Path

    def ratarmount(self) -> Path:
        """The `bin` directory of ratarmount's environment; made at the first call."""
        return environment(self.base / "ratarmount-venv", RATARMOUNT)

    def matplotlib(self) -> Path:
        return environment(self.base / "plots-venv", MATPLOTLIB)


@contextmanager
def alone(base: Path) -> Iterator[None]:
    """Locks the directory, so that only one benchmark runs in it. Raises Failure."""
    base.mkdir(parents=True, exist_ok=True)
    with open(base / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Failure(f"another benchmark is running in {base}") from None
        yield


def set_up(base: Path) -> Tools:
    missing = [name for name in PROGRAMS if not shutil.which(name)]
    if missing:
        raise Failure(f"{', '.join(missing)} missing: run `scripts/setup bench`")
    (base / "bin").mkdir(parents=True, exist_ok=True)
    walker, source = base / "bin/walker", HERE / "walker.c"
    if not walker.exists() or walker.stat().st_mtime < source.stat().st_mtime:
        part = walker.with_suffix(".part")
        output(["gcc", *WALKER_FLAGS, source, "-o", part], SETUP_SECONDS)
        part.rename(walker)
    return Tools(base, walker)


def environment(where: Path, requirement: str) -> Path:
    """The `bin` of a virtual environment with one requirement.  One that is not complete is made
    anew."""
    note = where / ".made-for"
    if not note.exists() or note.read_text() != requirement:
        print(f"bench: installing {requirement}", file=sys.stderr)
        venv.create(where, with_pip=True, clear=True)
        output([where / "bin/pip", "install", "-q", "--disable-pip-version-check", requirement],
               SETUP_SECONDS)  # fmt: skip
        note.write_text(requirement)
    return where / "bin"


def which_disk(base: Path) -> str:
    """The type of the file system, by findmnt's name."""
    return output(["findmnt", "-n", "-o", "FSTYPE", "-T", base], 30).strip()


def versions() -> dict[str, str]:
    """The versions of the peers that are Debian packages."""
    printed = output(["dpkg-query", "-W", "-f", "${Package} ${Version}\\n", *PACKAGES], 30)
    return dict(line.split(" ", 1) for line in printed.splitlines())


def without_imgmount() -> dict[str, str]:
    """The environment without two kinds of variables: those that name a user's own directories, and
    those that make every start compile the program anew (pip installs it compiled)."""
    unwanted = {"PYTHONDONTWRITEBYTECODE"}
    return {
        k: v for k, v in os.environ.items() if not k.startswith("IMGMOUNT_") and k not in unwanted
    }
