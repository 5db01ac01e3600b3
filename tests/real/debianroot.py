"""Mounts a Debian image to run programs in.

Law: the machine's /proc and /dev are bound into the mount, because programs need them; they are not
made there, so that the upper has only files that programs wrote.  At the end the bind mounts are
removed.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from mounted import Command, mounted
from oracle import run

_ENVIRONMENT = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LC_ALL": "C.UTF-8",
    "DEBIAN_FRONTEND": "noninteractive",
}


class DebianRoot:
    """An image on a mountpoint, with one upper for all its mounts."""

    def __init__(self, base: Path, image: Path) -> None:
        self._command, self._image = Command(base / "dirs"), image
        self.upper, self._at = base / "upper", base / "mnt"
        self._stack = ExitStack()

    @property
    def at(self) -> Path:
        return self._at

    def mount(self) -> None:
        with ExitStack() as stack:
            stack.enter_context(
                mounted(
                    self._command, self._image, self._at, "--upper", self.upper, "-o", "suid,dev"
                )
            )
            self._binds = stack.enter_context(bound(self._at))
            self._stack = stack.pop_all()

    def umount(self) -> None:
        self._stack.close()

    def remount(self) -> None:
        """Mounts anew: the daemon's memory is lost, the upper stays."""
        self.umount()
        self.mount()

    @contextmanager
    def unbound(self) -> Iterator[Path]:
        """The mount without bind mounts on it, for a dump of the whole tree."""
        self._binds.close()
        yield self._at
        self.remount()

    def __call__(self, script: str, *arguments: str, check: bool = True) -> str:
        """Runs a shell script in a chroot of the mount; it ends at the first failure."""
        done = run_in(self._at, ["sh", "-euc", script, "sh", *arguments])
        if check and done.returncode:
            output = (done.stdout + done.stderr)[-3000:].decode(errors="replace")
            raise AssertionError(f"{script.strip()} gave {done.returncode}:\n{output}")
        return done.stdout.decode(errors="replace")


@contextmanager
def bound(root: Path) -> Iterator[ExitStack]:
    """Binds the machine's /proc and /dev below a root.

    Closing the yielded stack unbinds them before the block ends.
    """
    with ExitStack() as binds:
        for source, place in (("/proc", "proc"), ("/dev", "dev")):
            run("mount", "--bind", source, root / place)
            binds.callback(run, "umount", root / place)
        yield binds


def run_in(
    root: Path, command: Sequence[str], seconds: float = 180
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["chroot", root, *command], env=_ENVIRONMENT, capture_output=True, timeout=seconds,
        stdin=subprocess.DEVNULL, cwd="/",
    )  # fmt: skip
