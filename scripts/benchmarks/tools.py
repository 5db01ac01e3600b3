"""Law: what only benchmarks need is made here, under one directory, and every child is bounded.

Debian packages are never installed here (`scripts/setup bench` does that); what PyPI has goes into
environments of its own, so that the program's own stays what users have.
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
PACKAGES = ["fio", "fuse-overlayfs", "squashfs-tools", "squashfuse"]

Command = Sequence[str | Path]


class Failure(Exception):
    """A contestant or a tool that could not do its part; the text names it and says why."""


def output(
    command: Command,
    seconds: float,
    *,
    environment: dict[str, str] | None = None,
    cwd: Path | None = None,
    on_timeout: Callable[[], None] = lambda: None,
) -> str:
    """Standard output of a program that must succeed. Raises Failure.

    on_timeout is called before the program is killed: a process that waits for a FUSE daemon dies
    only after the daemon did.
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
        said, complained = child.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        on_timeout()
        raise Failure(f"{words[0]}: not done after {seconds:.0f} s") from None
    finally:
        if child.poll() is None:
            child.kill()
            child.communicate()
    if child.returncode:
        raise Failure(f"{' '.join(words)[:300]}: {complained.strip()[-600:] or said[-600:]}")
    return said


@dataclass(frozen=True)
class Tools:
    """What the set-up made in `base`, the directory that --dir names."""

    base: Path
    walker: Path

    def ratarmount(self) -> Path:
        """The `bin` directory of its environment; made at the first call."""
        return environment(self.base / "ratarmount-venv", RATARMOUNT)

    def matplotlib(self) -> Path:
        return environment(self.base / "plots-venv", MATPLOTLIB)


@contextmanager
def alone(base: Path) -> Iterator[None]:
    """One benchmark at a time in that directory. Raises Failure."""
    base.mkdir(parents=True, exist_ok=True)
    with open(base / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Failure(f"another benchmark is running in {base}") from None
        yield


def set_up(base: Path) -> Tools:
    missing = [
        name
        for name in ("fio", "fuse-overlayfs", "gcc", "mksquashfs", "squashfuse_ll", "tar")
        if not shutil.which(name)
    ]
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
    """The `bin` of a virtual environment with one requirement; half-made ones are made anew."""
    note = where / ".made-for"
    if not note.exists() or note.read_text() != requirement:
        print(f"bench: installing {requirement}", file=sys.stderr)
        venv.create(where, with_pip=True, clear=True)
        output([where / "bin/pip", "install", "-q", "--disable-pip-version-check", requirement],
               SETUP_SECONDS)  # fmt: skip
        note.write_text(requirement)
    return where / "bin"


def which_disk(base: Path) -> str:
    """The kind of file system, as findmnt calls it."""
    return output(["findmnt", "-n", "-o", "FSTYPE", "-T", base], 30).strip()


def versions() -> dict[str, str]:
    """Of the peers that are Debian packages."""
    said = output(["dpkg-query", "-W", "-f", "${Package} ${Version}\\n", *PACKAGES], 30)
    return dict(line.split(" ", 1) for line in said.splitlines())


def without_imgmount() -> dict[str, str]:
    """The environment without settings that would lead to a user's own directories, or have every
    start compile the program anew (what pip installs is compiled)."""
    unwanted = {"PYTHONDONTWRITEBYTECODE"}
    return {
        k: v for k, v in os.environ.items() if not k.startswith("IMGMOUNT_") and k not in unwanted
    }
