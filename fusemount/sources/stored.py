"""Law: opens an image of a store as an image of an OCI layout, which the store is.

Facts about its layers are kept in the store's own cache, if the caller may write to it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

from fusemount.digest import Digest, chain_ids
from fusemount.errors import ImageNotFound
from fusemount.image import KeptLayer
from fusemount.image.model import Descriptor
from fusemount.reference import Reference
from fusemount.settings import ImageOptions
from fusemount.sources import oci
from fusemount.sources.choose import choose
from fusemount.sources.image import Image
from fusemount.sources.medium import Directory, Links
from fusemount.sources.oci import Own
from fusemount.store import Layout, Store, children, diffids, layerdb


def open_stored(reference: Reference, options: ImageOptions) -> Image:
    """The image of that name or ID.

    Raises ImageNotFound, PlatformMismatch, MalformedImage, VerificationFailed.
    """
    store, name = Store(reference.path), reference.name or ""
    if not store.layout.exists:
        raise ImageNotFound(
            f"{name}: no such file, and no image: there is no store at {store.root} yet "
            f"(`imgmount pull {name}` makes one)"
        )
    stored = store.find(name)
    medium = Directory(store.root, Links.NONE)
    with ExitStack() as undo:
        undo.callback(medium.close)
        found = oci.candidates_of(medium, [stored.descriptor], options, own_of(store.layout))
        image = choose(found, None, options, name)
        undo.pop_all()
    return replace(
        image,
        source=name,
        repo_tags=tuple(each.familiar for each in stored.names),
        repo_digests=stored.repo_digests,
        cache=store.layout.cache if os.access(store.layout.cache, os.W_OK) else None,
        store=store.root,
    )


def own_of(layout: Layout) -> Own:
    """Chooses the manifests of an index that came with it (store/children.py)."""

    def own(index: Digest, listed: Sequence[Descriptor]) -> Sequence[Descriptor]:
        there = set(children.own(layout, index, (child.digest for child in listed)))
        return [child for child in listed if child.digest in there]

    return own


def kept_layers(image: Image) -> list[KeptLayer] | None:
    """What layerdb has of the image's layers, lowest first; None if it is in no store."""
    if image.store is None:
        return None
    layout = Store(image.store).layout
    found = []
    for ident, diff_id in zip(chain_ids(image.config.diff_ids), image.config.diff_ids, strict=True):
        cache_id = layerdb.read_text(layout, ident, "cache-id") or ""
        try:
            known = diffids.known(layout, Digest(f"sha256:{cache_id}"))
        except ValueError:
            known = None
        if known is None or known.diff_id != diff_id:  # damaged
            found.append(KeptLayer(0, ""))
        else:
            found.append(KeptLayer(known.size, cache_id))
    return found
