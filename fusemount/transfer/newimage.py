"""Law: makes an image of a config and layers that are in a store, and writes its manifest.

The manifest is made of the layers as they are in the store, so that the same image always gets the
same manifest.
"""

from __future__ import annotations

from collections.abc import Sequence

from fusemount.digest import Digest
from fusemount.image.model import Descriptor
from fusemount.image.parse import parse_config
from fusemount.imagename import ImageName
from fusemount.settings import Platform
from fusemount.sources.writing import MANIFEST_TYPE, Described, new_manifest
from fusemount.store import Lease, Store, StoredImage
from fusemount.store.intake import put_document


def add_new_image(
    store: Store,
    lease: Lease,
    config: bytes,
    layers: Sequence[Described],
    platform: Platform,
    names: Sequence[ImageName],
) -> StoredImage:
    """The image, under these names.  layers: lowest first, held by the lease.

    Raises MalformedImage where a layer is missing, or beyond a limit; NoSpace, ImgmountError.
    """
    parse_config(config, "the new config")
    manifest = new_manifest(config, layers)
    lease.hold([Digest.of(manifest), Digest.of(config)])
    put_document(store.layout, config)
    digest = put_document(store.layout, manifest)
    descriptor = Descriptor(MANIFEST_TYPE, digest, len(manifest), platform=platform)
    return store.add(descriptor, names)
