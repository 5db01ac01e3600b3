"""Law: decides which marks of a directory layer are obeyed.

Any user who can write to a file can give it a mark in `user.`.  If root's mount obeyed such a mark,
it could make a file set-uid root, or show the contents of a directory that the user may not enter.
So marks in `user.` are obeyed only

- in a user's own mount: overlayfs' `userxattr` and fuse-overlayfs are for that;
- in root's mount if root asks for it: by an option for one mount, or by the mark
  `trusted.overlay.imgmount.userxattr` on the layer's root, which only root can set.

Root of a user namespace counts as a user here: the kernel does not allow `trusted.` xattrs there.
Owners stored in `user.` count if the layer's root has one too, as with fuse-overlayfs, or has the
mark of an imgmount upper.  Whiteouts by name (`.wh.X`) count in every layer that is not an upper of
overlayfs or imgmount: a user who can make the name .wh.X can also make the name X, which hides as
much.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import field
from pathlib import Path

from fusemount._native import (
    MARKS_NAMES,
    MARKS_OWNER,
    MARKS_TRUSTED,
    MARKS_UPPER,
    MARKS_USER,
    MARKS_USERXATTR,
)
from fusemount.beneath import in_first_user_namespace
from fusemount.dataclass import dataclass
from fusemount.errors import NotPermitted
from fusemount.settings import UserMarks


@dataclass(frozen=True)
class Origin:
    """Who wrote the directories of an image.

    store: they are in the store of another program.  roots: that store is root's, and only root can
    write there; then xattrs in `user.` are data of the image.  below: the directories of that
    store; no symlink below them is followed.
    """

    store: bool = False
    roots: bool = False
    below: tuple[Path, ...] = field(default=(), compare=False)


ANYBODYS = Origin()


def origin_of_store(root: Path, further: Iterable[Path] = ()) -> Origin:
    """The Origin of layers in a store. further: other stores of the same program that have some of
    the layers.  Raises OSError."""
    st = root.stat()
    roots = in_first_user_namespace() and st.st_uid == 0 and not st.st_mode & 0o022
    return Origin(store=True, roots=roots, below=(root, *further))


def obeyed(found: int, wish: UserMarks, origin: Origin, root: bool) -> int:
    """The MARKS_* to obey in a layer.

    found: the kinds of marks that the layer's root has (MARKS_*); root: the mount is root's.

    Raises NotPermitted, without a path, for a layer that would be wrong without its `user.` marks.
    """
    names = 0 if found & MARKS_UPPER else MARKS_NAMES
    asked_before = found & MARKS_USERXATTR and not found & MARKS_TRUSTED
    if wish.overlay or (root and asked_before):
        kinds = MARKS_USER | MARKS_OWNER
    elif root:
        kinds = MARKS_TRUSTED
        _check_in_roots_mount(found, wish, origin)
    else:
        kinds = _in_users_mount(found, origin)
    if wish.owners is not None:
        kinds = kinds | MARKS_OWNER if wish.owners else kinds & ~MARKS_OWNER
    return kinds | names


def _in_users_mount(found: int, origin: Origin) -> int:
    owners = found & MARKS_OWNER
    if found & MARKS_TRUSTED:
        return MARKS_TRUSTED | owners
    if found & (MARKS_USER | MARKS_OWNER):
        return MARKS_USER | owners
    return MARKS_TRUSTED if origin.roots else MARKS_TRUSTED | MARKS_USER


def _check_in_roots_mount(found: int, wish: UserMarks, origin: Origin) -> None:
    if found & MARKS_USER and not found & MARKS_TRUSTED and not origin.roots:
        raise NotPermitted(
            "its marks are a user's (user.overlay.*), which root does not obey unasked: "
            "--userxattr (-o userxattr)"
        )
    if found & MARKS_OWNER and wish.owners is None:
        raise NotPermitted(
            "its owners stand in user.containers.override_stat, which root does not obey unasked: "
            "--override-stat on or off (-o override_stat=)"
        )


def check_disobeyed(count: int, first: bytes, origin: Origin) -> None:
    """Call it after a scan. count: how many objects have `user.` marks that were taken as data;
    first: one of them.

    Raises NotPermitted, without a path, if the layer is in a user's store: it would show wrong.
    """
    if count and origin.store and not origin.roots:
        raise NotPermitted(
            f"a user's store, whose marks ({os.fsdecode(first)!r} has one) root does not obey "
            "unasked: --userxattr (-o userxattr)"
        )
