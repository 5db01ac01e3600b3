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
from fusemount.errors import ImgmountError
from fusemount.image.model import DOCKER, DOCKER_LAYER, OCI, ORIGINAL, TAR_LAYER, Descriptor
from fusemount.image.parse import parse_index_or_manifest
from fusemount.sources.writing import compact_json
from fusemount.store import Lease, Store, children
from fusemount.store.intake import put_document
from fusemount.store.layout import Layout

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

    Raises MalformedImage if it would be beyond a limit; NoSpace, ImgmountError.
    """
    document = json.loads(store.layout.document(descriptor.digest))
    kind = str(document.get("mediaType") or descriptor.media_type)
    changed = kind in TYPES
    listed = document.get("manifests") or []
    own = set(children.own(store.layout, descriptor.digest, (Digest(c["digest"]) for c in listed)))
    came = [child for child in listed if child["digest"] in own]
    for child in came:
        changed |= _replaced(child, as_oci(store, lease, _of(child)))
    for entry in (*(document.get("layers") or ()), *filter(None, [document.get("config")])):
        counterpart = TYPES.get(entry.get("mediaType"))
        changed |= counterpart is not None
        entry |= {"mediaType": counterpart} if counterpart else {}
    if not changed:
        return descriptor
    document["mediaType"] = TYPES.get(kind, kind)
    document["annotations"] = (document.get("annotations") or {}) | {ORIGINAL: descriptor.digest}
    data = compact_json(document)
    parse_index_or_manifest(
        data, f"the OCI form of manifest {descriptor.digest}", document["mediaType"]
    )
    lease.hold([Digest.of(data)])
    if came:
        own = {Digest(child["digest"]) for child in came}
        children.remember(store.layout, Digest.of(data), own, own)
    digest = put_document(store.layout, data)
    return Descriptor(document["mediaType"], digest, len(data), platform=descriptor.platform)


def is_counterpart(layout: Layout, original: Digest, document: Any) -> bool:
    """Whether as_oci makes this document of the manifest or index with that digest.

    document: JSON.  The annotation alone proves nothing: the maker of an image can write any
    digest there, and a push would send another image than the one that the store shows.
    """
    try:
        expected = json.loads(layout.document(original))
        kind = expected.get("mediaType") or document["mediaType"]
        children = zip(
            expected.get("manifests") or (), document.get("manifests") or (), strict=True
        )
        for child, made in children:
            if child["digest"] != made["digest"]:
                counterpart = json.loads(layout.document(Digest(made["digest"])))
                if not is_counterpart(layout, Digest(child["digest"]), counterpart):
                    return False
                child |= {key: made[key] for key in ("mediaType", "digest", "size")}
        for entry in (*(expected.get("layers") or ()), *filter(None, [expected.get("config")])):
            if entry.get("mediaType") in TYPES:
                entry["mediaType"] = TYPES[entry["mediaType"]]
        expected["mediaType"] = TYPES.get(kind, kind)
        expected["annotations"] = (expected.get("annotations") or {}) | {ORIGINAL: original}
    except (OSError, ImgmountError, LookupError, TypeError, ValueError, AttributeError):
        return False
    return bool(expected == document)


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
