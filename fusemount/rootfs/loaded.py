"""Law: what was found in an upper while it was laid over the layers (upperload.py), as values."""

from __future__ import annotations

from dataclasses import field
from enum import Enum

from fusemount.dataclass import dataclass
from fusemount.rootfs.harmless import NONE_HARMED, Harmed
from fusemount.rootfs.prefixed import Prefixed


@dataclass(frozen=True)
class Repairs:
    """What the disk does not say as it should, since a process died: all of it shows right.

    links: nodes, whose first name has the object, and the names that lack it.  times: directories
    that hold a copy-up nobody is to see.  files: those whose data were on their way.  cut: files
    that show a part of the layers' data.  prefixed: marks of fuse-overlayfs'.
    needless_whiteouts: whiteouts that hide nothing, by directory.
    """

    links: list[tuple[int, list[tuple[int, bytes]]]]
    times: list[int]
    files: list[int]
    cut: list[int]
    prefixed: list[Prefixed]
    needless_whiteouts: dict[int, list[bytes]]


class Unmatched(Enum):
    """How an object of the upper refers to what these layers do not have.

    WHITEOUT: it hides nothing.  CONTENTS: it has attributes alone, and there is no file whose
    contents it could show; it stays on disk, unseen.  DIRECTORY: what the layers had in it is not
    there.
    """

    WHITEOUT = "whiteout"
    CONTENTS = "contents"
    DIRECTORY = "directory"


@dataclass(frozen=True)
class Loaded:
    """redirects: where the layers have a directory that shows elsewhere, by nodeid.

    unmatched: (how, parent, name); none where the layers are those that the upper was made over.
    borrowed: files whose contents are the layers', while their attributes are the upper's, and the
    size of those contents.  fresh: the upper was empty.
    harmed: what it had of power over the host.
    """

    redirects: dict[int, bytes]
    repairs: Repairs
    unmatched: list[tuple[Unmatched, int, bytes]] = field(default_factory=list)
    borrowed: list[tuple[int, int]] = field(default_factory=list)
    fresh: bool = False
    harmed: Harmed = NONE_HARMED


def nothing_loaded() -> Loaded:
    """Of an upper that is empty; who uses it adds redirects."""
    return Loaded({}, Repairs([], [], [], [], [], {}), fresh=True)
