"""Law: decides whether a directory of an upper merges with the layers' directory of its name.

With overlayfs each directory does, without a mark.  If other users can enter the upper, that is a
power: a directory that such a user makes there under the name of a closed directory of the layers
would show what is in it.  So in root's mounts these directories merge:

    - those that were copied up.  They have a mark that only root can set: `imgmount.origin` with
      the path of that directory, or `origin` of overlayfs;
    - those that let nobody in whom the layers' directory keeps out.

Others show only what they have on the disk, and get the mark `opaque` (repair.py).  The rule counts
in uppers that began with it, and as long as they have been over no other layers: their root
has the mark `imgmount` with the value MERGE_MARKED.
"""

from __future__ import annotations

import stat

from fusemount import _native
from fusemount.rootfs.objectmarks import ACL_ACCESS, ORIGIN
from fusemount.rootfs.objects import Objects, Owner

IMGMOUNT = b"imgmount"
BEGUN, MERGE_MARKED = b"1", b"2"


def needs_marks(upper: Objects, root_fd: int, *, adopted: bool) -> bool:
    """Whether the rule counts. adopted: the upper may have been over other layers."""
    return upper.privileged and not adopted and upper.mark(root_fd, b".", IMGMOUNT) == MERGE_MARKED


def mark_copied(upper: Objects, fd: int, name: bytes, path: bytes) -> None:
    """Marks a directory that was copied up in the work directory. path: in the layers.

    Without room for the mark there is none (objectmarks.py, try_mark)."""
    if upper.privileged:
        upper.mark_if_room(fd, name, ORIGIN, path)


def merges(
    tree: _native.Tree, lower: int, owner: Owner, stored: dict[bytes, bytes], prefix: bytes
) -> bool:
    """lower: the layers' directory. owner, stored: owner and xattrs of the upper's."""
    if prefix + b"origin" in stored:
        return True
    if origin := stored.get(prefix + ORIGIN):
        try:
            if tree.resolve(origin, False) == lower:
                return True
        except OSError:
            pass
    return not _lets_in_more(tree, lower, owner, stored)


def _lets_in_more(tree: _native.Tree, lower: int, owner: Owner, stored: dict[bytes, bytes]) -> bool:
    attr = tree.getattr(lower)
    mode = stat.S_IMODE(attr.mode)
    if ACL_ACCESS in stored or tree.getxattr(lower, ACL_ACCESS) is not None:
        return True
    if owner.uid not in (attr.uid, 0):
        return True
    group = mode >> 3 if owner.gid == attr.gid else mode
    return bool(owner.mode & 0o7 & ~mode or owner.mode >> 3 & 0o7 & ~group)
