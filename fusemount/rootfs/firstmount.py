"""Law: starts an upper: the first mount marks it and gives it the root's attributes, later mounts
lay it over the layers."""

from __future__ import annotations

import os
import stat
from dataclasses import replace

from fusemount import _native
from fusemount.beneath import trusted
from fusemount.rootfs.bynames import IMGMOUNT, MERGE_MARKED
from fusemount.rootfs.loaded import Loaded, nothing_loaded
from fusemount.rootfs.objects import Owner
from fusemount.rootfs.upper import Upper
from fusemount.rootfs.upperload import load_upper


def start_upper(tree: _native.Tree, upper: Upper, *, adopted: bool, read_only: bool) -> Loaded:
    """Gives a new upper the attributes of the layers' root, unless an untrusted user owns it; lays
    a used one over the tree.  Raises as load_upper()."""
    fresh = upper.mark(upper.fd, b".", IMGMOUNT) is None and not os.listdir(upper.fd)
    if not fresh:
        return load_upper(tree, upper, adopted=adopted)
    if not read_only and _is_untrusted(upper.fd):
        upper.set_mark(upper.fd, b".", IMGMOUNT, MERGE_MARKED)
        return replace(load_upper(tree, upper), fresh=True)
    if not read_only:
        _begin(tree, upper)
    return nothing_loaded()


def _begin(tree: _native.Tree, upper: Upper) -> None:
    attr = tree.getattr(1)
    upper.give(upper.fd, b".", Owner(attr.uid, attr.gid, stat.S_IMODE(attr.mode)))
    for name, value in tree.xattrs(1).items():
        upper.set_xattr(upper.fd, b".", name, value)
    upper.set_mark(upper.fd, b".", IMGMOUNT, MERGE_MARKED)
    os.utime(upper.fd, ns=(attr.atime_ns, attr.mtime_ns))
    born = _native.born(upper.fd, b"")
    tree.set_attr(1, upper=True, object=os.fstat(upper.fd).st_ino, born=born)


def _is_untrusted(fd: int) -> bool:
    """Whether the directory belongs neither to root, nor to us, nor to the owner of the directory
    above it, who may have made it for a mount with sudo."""
    uid = os.fstat(fd).st_uid
    return not trusted(uid) and uid != os.stat("..", dir_fd=fd, follow_symlinks=False).st_uid
