"""Law: which marks of a directory layer count, and whose they are.

A mark in `user.` may be anybody's who can write to the object that has it.  Obeyed with root's
authority it would make a file set-uid root, or show what lies in a directory that its writer may
not enter.  So `user.` marks count

- in a mount of a user's own, which is what overlayfs' `userxattr` and fuse-overlayfs are for;
- for root where root says so: for one mount by an option, for a directory by
  `trusted.overlay.imgmount.userxattr` on its root, which only root can set.

Who is root of a user namespace is a user here: the kernel gives no `trusted.` xattrs there.
Owners that stand in `user.` count where the layer's root has one too, as with fuse-overlayfs, or
the mark of an upper of ours.  Names `.wh.X` count in every layer that is no upper of overlayfs' or
ours: who can make the name .wh.X can make the name X, which hides as much.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import field
from pathlib import Path

from fusemount._native import (
    MARKS_NAMES,
    MARKS_OWNER,
    MARKS_ROOTS_WORD,
    MARKS_TRUSTED,
    MARKS_UPPER,
    MARKS_USER,
)
from fusemount.beneath import in_first_user_namespace
from fusemount.dataclass import dataclass
from fusemount.errors import NotPermitted
from fusemount.settings import UserMarks


@dataclass(frozen=True)
class Origin:
    """Who wrote the directories of an image.

    store: another program keeps them.  roots: that program is root's, and nobody else can write
    there: xattrs in `user.` are data of the image.  below: where that program keeps them: a symlink
    on the way from there is followed by nobody.
    """

    store: bool = False
    roots: bool = False
    below: tuple[Path, ...] = field(default=(), compare=False)


ANYBODYS = Origin()


def origin_of_store(root: Path, further: Iterable[Path] = ()) -> Origin:
    """further: stores of the same program that have some of the layers.  Raises OSError."""
    st = root.stat()
    roots = in_first_user_namespace() and st.st_uid == 0 and not st.st_mode & 0o022
    return Origin(store=True, roots=roots, below=(root, *further))


def obeyed(said: int, wish: UserMarks, origin: Origin, root: bool) -> int:
    """MARKS_* to obey in a layer whose root has marks of these kinds.

    Raises NotPermitted, without a path, for a layer that makes no sense without its `user.` marks.
    """
    names = 0 if said & MARKS_UPPER else MARKS_NAMES
    roots_word = said & MARKS_ROOTS_WORD and not said & MARKS_TRUSTED
    if wish.overlay or (root and roots_word):
        kinds = MARKS_USER | MARKS_OWNER
    elif root:
        kinds = MARKS_TRUSTED
        _check(said, wish, origin)
    else:
        kinds = _users(said, origin)
    if wish.owners is not None:
        kinds = kinds | MARKS_OWNER if wish.owners else kinds & ~MARKS_OWNER
    return kinds | names


def _users(said: int, origin: Origin) -> int:
    owners = said & MARKS_OWNER
    if said & MARKS_TRUSTED:
        return MARKS_TRUSTED | owners
    if said & (MARKS_USER | MARKS_OWNER):
        return MARKS_USER | owners
    return MARKS_TRUSTED if origin.roots else MARKS_TRUSTED | MARKS_USER


def _check(said: int, wish: UserMarks, origin: Origin) -> None:
    if said & MARKS_USER and not said & MARKS_TRUSTED and not origin.roots:
        raise NotPermitted(
            "its marks are a user's (user.overlay.*), which root does not obey unasked: "
            "--userxattr (-o userxattr)"
        )
    if said & MARKS_OWNER and wish.owners is None:
        raise NotPermitted(
            "its owners stand in user.containers.override_stat, which root does not obey unasked: "
            "--override-stat on or off (-o override_stat=)"
        )


def check_disobeyed(count: int, first: bytes, origin: Origin) -> None:
    """After a scan.  Raises NotPermitted, without a path, for a store of a user's whose marks were
    taken as data: it would be shown wrong."""
    if count and origin.store and not origin.roots:
        raise NotPermitted(
            f"a user's store, whose marks ({os.fsdecode(first)!r} has one) root does not obey "
            "unasked: --userxattr (-o userxattr)"
        )
