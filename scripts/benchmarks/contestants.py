"""The file systems that are compared, one class for each.

Law: every contestant shows the same image at place.at by one command, which returns when the mount
can be used.  `prepare` and `arrange` make the contestant's inputs before; no time includes them.

The options make contestants equal and none of them slower: suid, dev and other users are allowed
everywhere (imgmount's default for root), and nothing else is set.  All uppers and unpacked trees
lie on one file system.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import mounting
from benchmarks.images import Image
from benchmarks.mounting import Place
from benchmarks.tools import SETUP_SECONDS, TOP, Command, Tools, output, without_imgmount

MOUNT_SECONDS = 600.0
PYFUSE3 = "imgmount-pyfuse3"
"""imgmount without its fast path."""


class Contestant(ABC):
    name: str
    writable = True
    mounts = True
    unpacks = False
    """Needs the image as a directory."""
    environment: dict[str, str] | None = None

    def prepare(self, image: Image) -> None:  # noqa: B027  (kernel file systems need nothing)
        """Makes the files that are kept between mounts, an index for example; once per image."""

    def arrange(self, image: Image, place: Place, changes: bool) -> None:  # noqa: B027
        """Called before each mount.  changes: the work will change files of the image."""

    @abstractmethod
    def command(self, image: Image, place: Place) -> Command: ...

    @contextmanager
    def mounted(self, image: Image, place: Place) -> Iterator[Path]:
        output(
            self.command(image, place), MOUNT_SECONDS, environment=self.environment, cwd=Path("/")
        )
        mounting.wait_mounted(place.at)
        yield place.at  # place() unmounts it


class Imgmount(Contestant):
    """The daemon of a checkout, run by the checkout's Python, with directories of its own."""

    def __init__(self, name: str, own: Path, options: str, checkout: Path = TOP) -> None:
        self.name, self._options = name, options
        self._python = checkout / ".venv/bin/python" if checkout != TOP else Path(sys.executable)
        self._prepared: set[str] = set()
        self.environment = without_imgmount() | {
            f"IMGMOUNT_{what}_DIR": str(own / what.lower())
            for what in ("CACHE", "STATE", "RUNTIME")
        } | {"PYTHONPATH": str(checkout)}  # fmt: skip

    def prepare(self, image: Image) -> None:
        """Mounts once, which verifies and indexes: the timed mounts then have an index."""
        if image.name in self._prepared:
            return
        with mounting.place(image.base / "first-mount") as place, self.mounted(image, place):
            self._prepared.add(image.name)

    def command(self, image: Image, place: Place) -> Command:
        return self.mounting(f"tar:{image.tar}", place)

    def mounting(self, image: str, place: Place, *first: str) -> Command:
        """The command that mounts the image of this name.  first: the options of all verbs."""
        options = ["-o", self._options] if self._options else []
        return [*self.program, *first, "mount", image, place.at, "--upper", place.upper, "--work",
                place.work, *options]  # fmt: skip

    @property
    def program(self) -> list[str | Path]:
        return [self._python, "-m", "fusemount"]


class Overlayfs(Contestant):
    """The kernel's overlayfs over the unpacked layer."""

    name = "overlayfs"
    unpacks = True

    def prepare(self, image: Image) -> None:
        _ = image.unpacked

    def command(self, image: Image, place: Place) -> Command:
        return ["mount", "-t", "overlay", "overlay", "-o", _lower(image, place), place.at]


class FuseOverlayfs(Contestant):
    name = "fuse-overlayfs"
    unpacks = True

    def prepare(self, image: Image) -> None:
        _ = image.unpacked

    def command(self, image: Image, place: Place) -> Command:
        options = _lower(image, place) + ",allow_other,suid,dev"
        return ["fuse-overlayfs", "-o", options, place.at]


def _lower(image: Image, place: Place) -> str:
    return f"lowerdir={image.unpacked},upperdir={place.upper},workdir={place.work}"


@dataclass
class Plain(Contestant):
    """The disk's own file system: the unpacked tree, or a copy of it if the work changes files.

    It is not mounted anew, so its first walks are warm.
    """

    name: str
    unpacks = True

    def prepare(self, image: Image) -> None:
        _ = image.unpacked

    def arrange(self, image: Image, place: Place, changes: bool) -> None:
        if changes:
            output(["cp", "-a", image.unpacked, place.copy], SETUP_SECONDS)

    def command(self, image: Image, place: Place) -> Command:
        tree = place.copy if place.copy.exists() else image.unpacked
        return mounting.bind_command(tree, place.at)


class Squashfuse(Contestant):
    name = "squashfuse"
    writable = False

    def prepare(self, image: Image) -> None:
        _ = image.squashfs

    def command(self, image: Image, place: Place) -> Command:
        return ["squashfuse_ll", "-o", "allow_other,suid,dev", image.squashfs, place.at]


@dataclass
class Ratarmount(Contestant):
    tools: Tools
    name = "ratarmount"
    writable = False

    def prepare(self, image: Image) -> None:
        _ = image.ratarmount_index

    def command(self, image: Image, place: Place) -> Command:
        return [self.tools.ratarmount() / "ratarmount", "--index-file", image.ratarmount_index,
                "-o", "allow_other,suid,dev", image.tar, place.at]  # fmt: skip


DEFAULT_PEERS = "imgmount,overlayfs,ext4,fuse-overlayfs,squashfuse,ratarmount"


def contestants(
    names: list[str],
    tools: Tools,
    disk: str,
    options: str,
    variants: dict[str, str],
    checkouts: dict[str, Path],
) -> list[Contestant]:
    """The contestants of these names, and the variants and checkouts.

    options: `-o` of all mounts of imgmount.
    Raises ValueError for an unknown name.
    """
    own = tools.base / "imgmount"
    made: dict[str, Contestant] = {
        "imgmount": Imgmount("imgmount", own, options),
        "overlayfs": Overlayfs(),
        disk: Plain(disk),
        "fuse-overlayfs": FuseOverlayfs(),
        "squashfuse": Squashfuse(),
        "ratarmount": Ratarmount(tools),
    }
    for name, words in {PYFUSE3: "fastpath=off", **variants}.items():
        made[name] = Imgmount(name, own, ",".join(filter(None, (options, words))))
    for name, checkout in checkouts.items():
        made[name] = Imgmount(name, tools.base / name, options, checkout)
    aliases = {"ext4": disk, "squashfuse_ll": "squashfuse"}
    wanted = [aliases.get(name, name) for name in names] + [*variants, *checkouts]
    unknown = [name for name in wanted if name not in made]
    if unknown:
        raise ValueError(f"no such contestant: {', '.join(unknown)} (there are {', '.join(made)})")
    return [made[name] for name in dict.fromkeys(wanted)]
