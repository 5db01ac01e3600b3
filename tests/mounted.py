"""Mounts images by the command itself, and always unmounts them at the end.

Law: no mount, no process and no file outside its tmp_path is left behind by a test.
"""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from imagewriter import docker_archive
from oracle import differences, dump_directory, overlay, unpack


@dataclass(frozen=True)
class Command:
    """`imgmount` with cache, state and runtime directories of its own under one directory.

    An image's path as the first argument mounts it; with `fastpath` off, so that pyfuse3 answers
    for it alone (the fixture `fastpath`).
    """

    base: Path
    fastpath: bool = True

    @property
    def environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("IMGMOUNT_")}
        return kept | {
            f"IMGMOUNT_{what}_DIR": str(self.base / what.lower())
            for what in ("CACHE", "STATE", "RUNTIME", "ROOT")
        }

    def __call__(
        self, *arguments: str | Path, check: bool = True, seconds: float = 120
    ) -> subprocess.CompletedProcess[str]:
        if not self.fastpath and isinstance(arguments[0], Path):
            arguments = (*arguments, "-o", "fastpath=off")
        done = subprocess.run(
            [sys.executable, "-m", "fusemount", *map(str, arguments)],
            env=self.environment,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=seconds,
            stdin=subprocess.DEVNULL,
        )
        if check and done.returncode:
            raise AssertionError(f"imgmount {arguments} gave {done.returncode}: {done.stderr}")
        return done


@contextmanager
def mounted(command: Command, image: Path, at: Path, *options: str | Path) -> Iterator[Path]:
    at.mkdir(exist_ok=True)
    command(image, at, *options)
    try:
        yield at
    except BaseException:
        command("umount", "--lazy", at, check=False)
        raise
    command("umount", at)


def powerful(upper: Path) -> list[str]:
    """The objects below this directory that have power over the host: set-id files, files with
    capabilities, devices other than whiteouts."""
    found = []
    for here, directories, files in os.walk(upper):
        for path in (os.path.join(here, name) for name in (*directories, *files)):
            st = os.lstat(path)
            device = stat.S_ISBLK(st.st_mode) or (stat.S_ISCHR(st.st_mode) and st.st_rdev)
            set_id = stat.S_ISREG(st.st_mode) and st.st_mode & 0o6000
            capable = "security.capability" in os.listxattr(path, follow_symlinks=False)
            if device or set_id or capable:
                found.append(path)
    return found


@dataclass
class Workshop:
    """Layers as an image, its upper, and the same layers unpacked for the kernel's overlayfs.

    harmless: mounted as root's mounts of images are, `nosuid,nodev`, so that set-id bits,
    capabilities and devices are not in the upper; the kernel's overlayfs does not see them then.
    """

    command: Command
    base: Path
    tars: Sequence[bytes]
    harmless: bool = False

    def __post_init__(self) -> None:
        self.image = docker_archive(self.base / "image.tar", list(self.tars))
        self.upper = self.base / "upper"
        self.work = self.base / "upper-work"

    @contextmanager
    def mounted(self, *options: str) -> Iterator[Path]:
        with mounted(
            self.command, self.image, self.base / "mnt",
            "--upper", self.upper, "--work", self.work,
            "-o", "nosuid,nodev" if self.harmless else "suid,dev", *options,
        ) as at:  # fmt: skip
            yield at

    def check_upper(self, before: Sequence[bytes]) -> None:
        """Checks that a second mount shows the same lines, and the kernel's overlayfs over the
        unpacked layers with that upper too (R 46), unless the upper is harmless."""
        with self.mounted() as at:
            found = differences(dump_directory(at), before)
            assert not found, "mounted again:\n" + found
        if self.harmless:
            assert not powerful(self.upper)
            return
        layers = [unpack(tar, self.base / f"layer{i}") for i, tar in enumerate(self.tars)]
        kernel_work = self.base / "kernel-work"
        kernel_work.mkdir()
        with overlay(layers, self.base / "kernel", self.upper, kernel_work) as at:
            found = differences(dump_directory(at), before)
            assert not found, "the kernel's overlayfs (ours) and the mount (theirs):\n" + found
