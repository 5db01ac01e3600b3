"""Law: makes the base of an upper from an image, by its layers: the image's name, its path and the
form of its archive do not decide whether an upper fits."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fusemount import __version__
from fusemount.digest import chain_ids
from fusemount.reference import Reference
from fusemount.settings import ImageOptions

if TYPE_CHECKING:
    from fusemount.layer import OpenLayer
    from fusemount.rootfs.base import Base
    from fusemount.sources import Image


def base_of(
    reference: Reference,
    image_options: ImageOptions,
    follow_symlink_parents: bool,
    image: Image,
    layers: Sequence[OpenLayer],
) -> Base:
    """The base of an upper over that image. layers: those that are tars, lowest first."""
    from fusemount.rootfs.base import Base

    return Base(
        image=reference.absolute().spelled,
        image_id=image.image_id,
        chain=chain_of(image, layers),
        platform=str(image_options.platform or ""),
        follow_symlink_parents=follow_symlink_parents,
    )


def chain_of(image: Image, layers: Sequence[OpenLayer]) -> str:
    """The chain ID of all layers; "" if their diff_ids are not known: directories without a config,
    a plain tar that was not verified, no layers.

    A config's diff_ids were verified, or the user chose to believe them (--no-verify).
    """
    known = list(image.config.diff_ids)
    if not known:
        computed = [layer.diff_id for layer in layers]
        known = [diff_id for diff_id in computed if diff_id is not None]
        known = known if len(known) == len(computed) else []
    return chain_ids(known)[-1] if known else ""


def handle_generation(base: Base, layers: Sequence[OpenLayer]) -> int | None:
    """A generation (native/tree/tree.h) that the same layers get at each mount, so that their file
    handles outlive a mount. None if the same nodeid may be another file at the next mount: if the
    layers are not known, or are directories, which change.

    The version is part of it, because another version may number the nodes in another way.
    """
    if not base.chain or not layers:
        return None
    numbering = f"{__version__} {base.chain} {base.follow_symlink_parents}"
    return int.from_bytes(hashlib.sha256(numbering.encode()).digest()[:4], "big")
