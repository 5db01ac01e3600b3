"""Law: says of a manifest with OCI media types whether it is the counterpart of one with Docker's.

transfer/ociform.py makes counterparts.  The annotation dev.imgmount.original is the digest of the
manifest that a counterpart was made from.  The annotation alone proves nothing: whoever makes an
image can write any digest there, and a push would send another image than the one that the store
shows, or a blob of another image would never be deleted.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from fusemount.compression import Compression
from fusemount.dataclass import dataclass
from fusemount.digest import Digest
from fusemount.errors import MalformedImage
from fusemount.image.fields import parse_json
from fusemount.image.model import DOCKER, DOCKER_LAYER, OCI, ORIGINAL, TAR_LAYER, Index
from fusemount.image.parse import NESTING_MAX, index_or_manifest_of
from fusemount.store.layout import Layout

TYPES = {
    DOCKER + "distribution.manifest.v2+json": OCI + "manifest.v1+json",
    DOCKER + "distribution.manifest.list.v2+json": OCI + "index.v1+json",
    DOCKER + "container.image.v1+json": OCI + "config.v1+json",
    DOCKER_LAYER: TAR_LAYER,
    DOCKER_LAYER + ".gzip": f"{TAR_LAYER}{Compression.GZIP.media_suffix}",
    DOCKER_LAYER + ".zstd": f"{TAR_LAYER}{Compression.ZSTD.media_suffix}",
}
_REPLACED = ("mediaType", "digest", "size")  # of an entry whose manifest has a counterpart, too


@dataclass(frozen=True)
class _Form:
    """What a document and its counterpart have in common.

    rest: a hash of all but what differs.  children: digest and hash of each entry of an index.
    """

    media_type: str
    original: str
    children: tuple[tuple[str, str], ...]
    rest: str


class Counterparts:
    """Answers for one store.  Each document is read at most twice, whoever names it."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._forms: dict[tuple[Digest, bool], _Form | None] = {}
        self._originals: dict[Digest, Digest | None] = {}

    def original(self, digest: Digest, depth: int = NESTING_MAX) -> Digest | None:
        """The manifest or index of which this one is the counterpart; None if it is of none, or if
        that one is not in the store."""
        if digest not in self._originals:
            found = self._compared(digest, depth)
            self._originals[digest] = found
        return self._originals[digest]

    def _compared(self, digest: Digest, depth: int) -> Digest | None:
        made = self._form(digest, False)
        if made is None or not made.original or depth == 0:
            return None
        try:
            original = Digest(made.original)
        except ValueError:
            return None
        first = self._form(original, True)
        if first is None or first.rest != made.rest or len(first.children) != len(made.children):
            return None
        kind = first.media_type or made.media_type
        if made.media_type != TYPES.get(kind, kind):
            return None
        for old, new in zip(first.children, made.children, strict=True):
            if old != new and not self._is_of(new[0], old[0], depth - 1):
                return None
        return original

    def _is_of(self, made: str, original: str, depth: int) -> bool:
        return made != original and self.original(Digest(made), depth) == original

    def _form(self, digest: Digest, docker: bool) -> _Form | None:
        """docker: with OCI media types in place of Docker's.  None if it is no manifest."""
        key = (digest, docker)
        if key not in self._forms:
            try:
                where = f"manifest {digest}"
                document = parse_json(self._layout.document(digest), where)
                content = index_or_manifest_of(document, where)
                self._forms[key] = _form(document, isinstance(content, Index), docker)
            except (OSError, MalformedImage):
                self._forms[key] = None
        return self._forms[key]


def _form(document: dict[str, Any], is_index: bool, docker: bool) -> _Form:
    rest = dict(document)
    annotations = dict(rest.pop("annotations", None) or {})
    original = annotations.pop(ORIGINAL, "")
    media_type = rest.pop("mediaType", None) or ""
    children = []
    if is_index:
        listed = rest.pop("manifests", None) or ()
        children = [(each["digest"], _text(each)) for each in listed]
        rest["manifests"] = [
            {key: value for key, value in each.items() if key not in _REPLACED} for each in listed
        ]
    elif docker:
        rest["layers"] = rest.get("layers") and [as_oci_entry(each) for each in rest["layers"]]
        rest["config"] = rest.get("config") and as_oci_entry(rest["config"])
    return _Form(media_type, original, tuple(children), _text([rest, annotations]))


def as_oci_entry(entry: dict[str, Any]) -> dict[str, Any]:
    """The descriptor of a config or layer, with an OCI media type in place of Docker's."""
    counterpart = TYPES.get(entry.get("mediaType") or "")
    return entry | {"mediaType": counterpart} if counterpart else entry


def _text(value: Any) -> str:
    """A hash of a JSON value, the same for equal values."""
    data = json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    return hashlib.sha256(data).hexdigest()
