"""Law: makes an OCI counterpart of a manifest or index that has Docker's media types.

skopeo, umoci and podman find only OCI manifests in a layout, and `umoci gc` follows only these.
The counterpart has the same config and layers.  Its annotation dev.imgmount.original is the digest
of the manifest that it was made from.  That manifest stays in the store, so that a push sends what
was pulled, with the same digest.
"""

from __future__ import annotations

import json
from typing import Any

from fusemount.compression import Compression
from fusemount.digest import Digest
from fusemount.image.model import DOCKER, DOCKER_LAYER, OCI, ORIGINAL, TAR_LAYER, Descriptor
from fusemount.sources.writing import compact_json
from fusemount.store import Lease, Store
from fusemount.store.intake import put_document

_MANIFEST, _INDEX = OCI + "manifest.v1+json", OCI + "index.v1+json"
TYPES = {
    DOCKER + "distribution.manifest.v2+json": _MANIFEST,
    DOCKER + "distribution.manifest.list.v2+json": _INDEX,
    DOCKER + "container.image.v1+json": OCI + "config.v1+json",
    DOCKER_LAYER: TAR_LAYER,
    DOCKER_LAYER + ".gzip": f"{TAR_LAYER}{Compression.GZIP.media_suffix}",
    DOCKER_LAYER + ".zstd": f"{TAR_LAYER}{Compression.ZSTD.media_suffix}",
}


def as_oci(store: Store, lease: Lease, descriptor: Descriptor) -> Descriptor:
    """Makes the counterpart of a manifest or index of the store; an OCI one is its own.

    Raises NoSpace, ImgmountError.
    """
    said = json.loads(store.layout.document(descriptor.digest))
    kind = str(said.get("mediaType") or descriptor.media_type)
    changed = kind in TYPES
    for child in said.get("manifests") or ():
        if store.layout.has_blob(Digest(child["digest"])):
            changed |= _replaced(child, as_oci(store, lease, _of(child)))
    for entry in (*(said.get("layers") or ()), *filter(None, [said.get("config")])):
        counterpart = TYPES.get(entry.get("mediaType"))
        changed |= counterpart is not None
        entry |= {"mediaType": counterpart} if counterpart else {}
    if not changed:
        return descriptor
    said["mediaType"] = TYPES.get(kind, kind)
    said["annotations"] = (said.get("annotations") or {}) | {ORIGINAL: descriptor.digest}
    data = compact_json(said)
    lease.hold([Digest.of(data)])
    digest = put_document(store.layout, data)
    return Descriptor(said["mediaType"], digest, len(data), platform=descriptor.platform)


def _of(entry: dict[str, Any]) -> Descriptor:
    return Descriptor(str(entry.get("mediaType", "")), Digest(entry["digest"]), int(entry["size"]))


def _replaced(entry: dict[str, Any], counterpart: Descriptor) -> bool:
    if counterpart.digest == entry["digest"]:
        return False
    entry |= {
        "mediaType": counterpart.media_type,
        "digest": counterpart.digest,
        "size": counterpart.size,
    }
    return True
