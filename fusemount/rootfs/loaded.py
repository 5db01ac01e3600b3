"""Law: the values that describe what upperload.py found in an upper while laying it over the
layers."""

from __future__ import annotations

from dataclasses import field
from enum import Enum

from fusemount.dataclass import dataclass
from fusemount.rootfs.makeharmless import NONE_HARMED, Harmed
from fusemount.rootfs.prefixed import Prefixed


@dataclass(frozen=True)
class Repairs:
    """What a process that died has left unfinished on disk; the tree shows all of it correctly.

    links: nodes with missing names; the first name of each has its object.  times: directories
    whose real times a copy-up has changed.  files: files whose data were being copied.  cut: files
    that show only a first part of the layers' data.  prefixed: marks that fuse-overlayfs wrote.
    needless_whiteouts: whiteouts that hide nothing, by directory.  unmerged: directories that must
    not merge with the layers' directory of their name (bynames.py).
    """

    links: list[tuple[int, list[tuple[int, bytes]]]]
    times: list[int]
    files: list[int]
    cut: list[int]
    prefixed: list[Prefixed]
    needless_whiteouts: dict[int, list[bytes]]
    unmerged: list[int]


class Unmatched(Enum):
    """How an object of the upper refers to something that these layers do not have.

    WHITEOUT: it hides nothing.  CONTENTS: it is a metacopy, and the layers have no file with its
    contents; it stays on disk and does not show.  DIRECTORY: it is a redirected directory, and the
    layers do not have that directory.
    """

    WHITEOUT = "whiteout"
    CONTENTS = "contents"
    DIRECTORY = "directory"


@dataclass(frozen=True)
class Loaded:
    """redirects: by nodeid, the path in the layers of each directory that shows at another path.

    unmatched: (how, parent, name); empty if the layers are those that the upper was made over.
    borrowed: files that have their attributes in the upper and their contents in the layers
    (metacopy), and the size of these contents.  fresh: the upper was empty.
    harmed: what was done about objects with power over the host.
    """

    redirects: dict[int, bytes]
    repairs: Repairs
    unmatched: list[tuple[Unmatched, int, bytes]] = field(default_factory=list)
    borrowed: list[tuple[int, int]] = field(default_factory=list)
    fresh: bool = False
    harmed: Harmed = NONE_HARMED


def nothing_loaded() -> Loaded:
    """For an empty upper. The dict of redirects is new, because copy-up adds to it."""
    return Loaded({}, Repairs([], [], [], [], [], {}, []), fresh=True)
