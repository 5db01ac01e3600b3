"""Law: makes an OCI counterpart of a manifest or index that has Docker's media types.

skopeo, umoci and podman find only OCI manifests in a layout, and `umoci gc` follows only these.
The counterpart has the same config and layers.  Its annotation dev.imgmount.original is the digest
of the manifest that it was made from.  That manifest stays in the store, so that a push sends what
was pulled, with the same digest (store/counterpart.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fusemount.digest import Digest
from fusemount.errors import MalformedImage
from fusemount.image.fields import parse_json
from fusemount.image.model import ORIGINAL, Descriptor, Index
from fusemount.image.parse import NESTING_MAX, index_or_manifest_of, parse_index_or_manifest
from fusemount.sources.writing import compact_json
from fusemount.store import Lease, Store, children
from fusemount.store.counterpart import TYPES, as_oci_entry
from fusemount.store.intake import put_document


class OciForms:
    """Makes the counterparts of what is in a store.

    Each document is read once, however many lists name it.  The lease holds what is made.
    """

    def __init__(self, store: Store, lease: Lease) -> None:
        self._store, self._lease = store, lease
        self._made: dict[Digest, Descriptor] = {}
        self._new: list[children.Came] = []

    def of(self, descriptor: Descriptor) -> Descriptor:
        """The counterpart; an OCI manifest or index is its own.

        Raises MalformedImage if it would be beyond a limit; NoSpace, ImgmountError.
        """
        made = self._of(descriptor, NESTING_MAX)
        new, self._new = self._new, []
        children.remember(self._store.layout, new)
        return made

    def _of(self, descriptor: Descriptor, depth: int) -> Descriptor:
        digest = descriptor.digest
        if digest not in self._made:
            where = f"manifest {digest}"
            if depth == 0:
                raise MalformedImage(f"{where}: indexes nested over {NESTING_MAX} deep")
            self._made[digest] = self._new_form(descriptor, where, depth)
        return self._made[digest]

    def _new_form(self, descriptor: Descriptor, where: str, depth: int) -> Descriptor:
        document = parse_json(self._store.layout.document(descriptor.digest), where)
        content = index_or_manifest_of(document, where, descriptor.media_type)
        kind = document.get("mediaType") or descriptor.media_type
        came: list[Digest] = []
        if isinstance(content, Index):
            entries, came = self._entries(descriptor.digest, document, content, depth)
            new = document | {"manifests": entries}
        else:
            layers = document.get("layers")
            new = document | {"config": as_oci_entry(document["config"])}
            new |= {"layers": [as_oci_entry(each) for each in layers]} if layers else {}
        if kind not in TYPES and new == document:
            return descriptor
        notes = (document.get("annotations") or {}) | {ORIGINAL: descriptor.digest}
        new |= {"mediaType": TYPES.get(kind, kind), "annotations": notes}
        return self._put(new, descriptor, came)

    def _entries(
        self, index: Digest, document: dict[str, Any], content: Index, depth: int
    ) -> tuple[list[dict[str, Any]], list[Digest]]:
        """The entries with the counterparts of the index's own manifests, and these."""
        listed = (child.digest for child in content.manifests)
        own = set(children.own(self._store.layout, index, listed))
        entries, came = [], []
        for entry, child in zip(document.get("manifests") or (), content.manifests, strict=True):
            made = self._of(child, depth - 1) if child.digest in own else child
            if made.digest != child.digest:
                new = {"mediaType": made.media_type, "digest": made.digest, "size": made.size}
                entry = entry | new
            if child.digest in own:
                came.append(made.digest)
            entries.append(entry)
        return entries, came

    def _put(
        self, document: dict[str, Any], original: Descriptor, came: Sequence[Digest]
    ) -> Descriptor:
        where = f"the OCI form of manifest {original.digest}"
        data = compact_json(document)
        parse_index_or_manifest(data, where, document["mediaType"])
        digest = Digest.of(data)
        self._lease.hold([digest])
        if came:
            self._new.append(children.Came(digest, came, came))
        put_document(self._store.layout, data)
        return Descriptor(document["mediaType"], digest, len(data), platform=original.platform)
