"""Law: makes a RootFs of opened layers and an upper directory; errors name the layer at fault."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from fusemount import _native
from fusemount.errors import MalformedImage
from fusemount.escape import quoted
from fusemount.rootfs.base import Base, Fit, check_base, is_adopted
from fusemount.rootfs.bynames import BEGUN, IMGMOUNT
from fusemount.rootfs.rebase import take_sizes
from fusemount.rootfs.upper import Upper
from fusemount.rootfs.view import RootFs, UpperOptions
from fusemount.settings import Owners

_AS_THEY_ARE = Owners()


class Layer(Protocol):
    """What a tree needs to have of a layer (fusemount.layer.OpenLayer is one)."""

    @property
    def index(self) -> _native.LayerIndex: ...
    @property
    def fd(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def description(self) -> str: ...
    @property
    def packed(self) -> _native.Packed | None:
        """Reads a compressed tar; None: fd has the bytes."""
        ...

    def rescan(self) -> _native.LayerIndex | None:
        """If the index came from the cache: a new one, made of the layer's bytes."""
        ...


def build_tree(
    layers: Sequence[Layer], *, follow_symlink_parents: bool = False, again: bool = False
) -> _native.Tree:
    """Stacks the layers, bottom first. The layers' descriptors must outlive the tree.

    The members of the indexes are freed, unless `again` says that another tree will be made.
    If no tree can be made with an index from the cache, that layer is scanned again, once.
    Raises MalformedImage for layers of which no tree can be made.
    """
    indexes = [layer.index for layer in layers]
    rescanned: set[int] = set()
    while True:
        tree, at = _native.Tree(), 0
        try:
            for at, layer in enumerate(layers):
                tree.add_layer(
                    indexes[at], layer.fd, layer.offset, follow_symlink_parents, layer.packed
                )
            break
        except _native.FormatError as error:
            index = None if at in rescanned else layers[at].rescan()
            if index is None:
                raise _malformed(layers[at], error) from error
            rescanned.add(at)
            indexes[at] = index
    for index in () if again else indexes:
        index.drop_entries()
    tree.seal()
    return tree


def _malformed(layer: Layer, error: _native.FormatError) -> MalformedImage:
    member = quoted(os.fsdecode(error.member))
    where = f"member {member} at byte {error.offset}: " if error.member else ""
    return MalformedImage(f"{layer.description}: {where}{error.message}")


def open_rootfs(
    layers: Sequence[Layer],
    *,
    upper: Path | None,
    upper_fd: int | None = None,
    work: Path | None,
    work_above: int | None = None,
    read_only: bool,
    follow_symlink_parents: bool = False,
    keep_root: bool = False,
    owners: Owners = _AS_THEY_ARE,
    userxattr: bool = False,
    options: UpperOptions | None = None,
    base: Base | None = None,
    rebase: bool = False,
    lock_directories: Sequence[Path] = (),
) -> RootFs:
    """The layers with an upper laid over them; changes are written to the upper, unless read_only.

    upper_fd: a descriptor of the upper; its path is then not looked up again.
    work: default `.<name>.imgmount-work` beside the upper.  work_above: a descriptor of the
    directory that contains the work directory; its path is then not looked up again.
    keep_root: as with overlayfs, the upper's root directory gives owner, mode and xattrs of the
    root even if the upper is empty; otherwise an empty upper gets those of the layers' root.
    owners: how ids of layers and upper are shown.
    userxattr: the upper's marks are `user.overlay.*` even if `trusted.` ones could be written.
    base: the layers, as a base.  An upper of another base is refused (UpperError), unless `rebase`
    says that it shall belong to this one.  If it is not certain that the base is the same, repairs
    that depend on the layers are not made.
    lock_directories: the directories of lock files (upperlock.py).
    Raises MalformedImage, UpperError, OSError.
    """
    tree = build_tree(layers, follow_symlink_parents=follow_symlink_parents)
    tree.set_owners(owners.uids, owners.gids, owners.squash_uid, owners.squash_gid)
    if upper is None:
        return RootFs(tree, None)
    if read_only:
        looked_at = Upper(
            upper, None, at=upper_fd, userxattr=userxattr, lock_directories=lock_directories
        )
        return _over(tree, looked_at, base, UpperOptions(), read_only=True, rebase=rebase)
    options = options or UpperOptions()
    beside = upper.with_name(f".{upper.name}.imgmount-work")
    opened = Upper(
        upper, work or beside, at=upper_fd, work_above=work_above, volatile=options.volatile,
        userxattr=userxattr, lock_directories=lock_directories, harmless=options.harmless,
    )  # fmt: skip
    if keep_root and not os.listdir(opened.fd):
        opened.set_mark(opened.fd, b".", IMGMOUNT, BEGUN)
    return _over(tree, opened, base, options, read_only=False, rebase=rebase)


def _over(
    tree: _native.Tree,
    upper: Upper,
    base: Base | None,
    options: UpperOptions,
    *,
    read_only: bool,
    rebase: bool,
) -> RootFs:
    """Checks the upper's base before anything of the upper is read or repaired."""
    try:
        fits = base is None or check_base(upper, base, rebase=rebase) is Fit.SAME
        adopted = not fits or (base is not None and is_adopted(upper))
        rootfs = RootFs(
            tree, upper, read_only=read_only, options=options, fits=fits, adopted=adopted
        )
        if rebase and not fits and not read_only:
            take_sizes(rootfs)
        return rootfs
    except BaseException:
        upper.close()
        raise
