"""Law: rebase: an upper is laid over other layers than those it was made over.

Nothing is removed from the upper: objects without a meaning over the new layers stay on disk and do
not show (upperload.py), so over its old layers the upper still shows the same.  Only the size of a
file whose contents are in the layers (metacopy) becomes the size of the new contents.
"""

from __future__ import annotations

import os
from contextlib import suppress

from fusemount.rootfs.loaded import Unmatched
from fusemount.rootfs.paths import Paths, some_path, upper_error
from fusemount.rootfs.view import RootFs

_SAID = {
    Unmatched.WHITEOUT: "was deleted; this image has nothing there",
    Unmatched.CONTENTS: "only its attributes were changed, and this image has no contents for it: "
    "not shown",
    Unmatched.DIRECTORY: "was renamed; what the image had in it is not in this one",
}


def dropped(rootfs: RootFs) -> list[tuple[bytes, str]]:
    """(path, what happens to it), sorted: all that shows differently because the upper was laid
    over another image. Raises ImgmountError for paths beyond a limit."""
    tree, loaded, found = rootfs.tree, rootfs.loaded, []
    paths = Paths(tree)
    for how, parent, name in loaded.unmatched:
        with suppress(FileNotFoundError):  # its directory does not show either
            found.append((paths.of(parent, name), _SAID[how]))
    for ino, _ in loaded.borrowed:
        for parent, name in tree.names(ino):
            text = "only its attributes were changed: it shows the contents of this image"
            found.append((paths.of(parent, name), text))
    for ino, missing in loaded.repairs.links:
        there = paths.of(*tree.names(ino, 1)[0])
        for parent, name in missing:
            text = f"a hard link of /{os.fsdecode(there)} in this image: it shows the upper's file"
            found.append((paths.of(parent, name), text))
    return sorted(found)


def take_sizes(rootfs: RootFs) -> None:
    """Gives each file whose contents are in the layers the size of these; its times stay.

    Raises UpperError, NoSpace."""
    native, upper, leases = rootfs.native, rootfs.upper, rootfs.leases
    assert native is not None and upper is not None and leases is not None
    for ino, size in rootfs.loaded.borrowed:
        attr = rootfs.tree.getattr(ino)
        if attr.size == size:
            continue
        try:
            leases.open_file(ino)
            fd = native.pin(ino)
            try:
                os.ftruncate(fd, size)
                os.utime(fd, ns=(attr.atime_ns, attr.mtime_ns))
            finally:
                native.unpin(ino)
        except OSError as error:
            raise upper_error(upper.path, some_path(rootfs.tree, ino), error) from error
        rootfs.tree.set_attr(ino, size=size)
