"""Law: an image of Docker's media types has a twin of OCI's, which a layout's readers know.

skopeo, umoci and podman find OCI manifests only in a layout, and `umoci gc` follows no other.  The
twin has the same config and layers; the annotation dev.imgmount.original names the manifest that it
was made of, which stays beside it, so that a push brings back what was pulled, digest and all.
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
    """The twin of a manifest or index that is in the store, made there; itself where it needs none.

    Raises NoSpace, ImgmountError.
    """
    said = json.loads(store.layout.document(descriptor.digest))
    kind = str(said.get("mediaType") or descriptor.media_type)
    changed = kind in TYPES
    for child in said.get("manifests") or ():
        if store.layout.has_blob(Digest(child["digest"])):
            changed |= _replaced(child, as_oci(store, lease, _of(child)))
    for part in (*(said.get("layers") or ()), *filter(None, [said.get("config")])):
        twin = TYPES.get(part.get("mediaType"))
        changed |= twin is not None
        part |= {"mediaType": twin} if twin else {}
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


def _replaced(entry: dict[str, Any], twin: Descriptor) -> bool:
    if twin.digest == entry["digest"]:
        return False
    entry |= {"mediaType": twin.media_type, "digest": twin.digest, "size": twin.size}
    return True
