"""Law: reads and writes index.json, which lists the images of a store and their names.

An entry is a descriptor of a manifest, or of an index of several platforms.  An image has one entry
for each tag; an image without a tag has one entry without a name.  Annotations have the names that
other readers of the layout look for, and the digests that we need:

    org.opencontainers.image.ref.name   the name as docker shows it; `oci:ROOT:ubuntu:22.04`
    io.containerd.image.name            the full name
    dev.imgmount.repo-digests           NAME@DIGESTs of registries, full, separated by spaces

An entry that another program wrote (skopeo, umoci) stays as it is, whatever its fields are.  When
one of the three annotations is changed, its other fields stay.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field, replace
from functools import cached_property
from typing import Any

from fusemount.dataclass import dataclass
from fusemount.digest import Digest
from fusemount.errors import ImgmountError, MalformedImage, UsageError
from fusemount.image.fields import objects_of, parse_json
from fusemount.image.model import CONTAINERD_NAME, OCI, REF_NAME, Descriptor
from fusemount.image.parse import parse_descriptor
from fusemount.imagename import ImageName, parse_name
from fusemount.ownfile import read_file
from fusemount.store.layout import Layout, replace_file, store_errors

REPO_DIGESTS = "dev.imgmount.repo-digests"
INDEX_BYTES_MAX = 64 << 20


@dataclass(frozen=True)
class Entry:
    """name: None if it has no tag.  repo_digests: NAME@DIGEST, full.  written: as it was read."""

    descriptor: Descriptor
    name: ImageName | None = None
    repo_digests: tuple[str, ...] = ()
    written: Mapping[str, Any] | None = field(default=None, compare=False)

    @property
    def digest(self) -> Digest:
        return self.descriptor.digest

    @property
    def foreign_name(self) -> str:
        """The name that another program gave it, if that is not a valid image name; else ""."""
        return self.descriptor.annotations.get(REF_NAME, "") if self.name is None else ""

    def document(self) -> dict[str, Any]:
        given = self.descriptor.annotations
        annotations = dict(given)
        if self.written is None or self.name != _name(given):
            annotations.pop(CONTAINERD_NAME, None)
            annotations.pop(REF_NAME, None)
            if self.name is not None:
                annotations |= {CONTAINERD_NAME: str(self.name), REF_NAME: self.name.familiar}
        if self.repo_digests != _repo_digests(given):
            annotations.pop(REPO_DIGESTS, None)
            if self.repo_digests:
                annotations[REPO_DIGESTS] = " ".join(self.repo_digests)
        document = dict(self.written) if self.written is not None else self._fields()
        if annotations != given or self.written is None:
            document.pop("annotations", None)
            if annotations:
                document["annotations"] = annotations
        return document

    def _fields(self) -> dict[str, Any]:
        document: dict[str, Any] = {
            "mediaType": self.descriptor.media_type,
            "digest": self.digest,
            "size": self.descriptor.size,
        }
        platform = self.descriptor.platform
        if platform is not None:
            fields = {"architecture": platform.architecture, "os": platform.os,
                    "variant": platform.variant}  # fmt: skip
            document["platform"] = {key: value for key, value in fields.items() if value}
        return document


def entry_of(descriptor: Descriptor, written: Mapping[str, Any] | None = None) -> Entry:
    given = descriptor.annotations
    return Entry(descriptor, _name(given), _repo_digests(given), written)


def _repo_digests(annotations: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(annotations.get(REPO_DIGESTS, "").split())


def _name(annotations: Mapping[str, str]) -> ImageName | None:
    """The name that the two annotations give; None if neither is a name.

    containerd writes only the tag as ref.name.  umoci changes only ref.name and copies the other
    annotations.  So if the full name does not fit ref.name, it belongs to another entry.
    """
    full = _parsed(annotations.get(CONTAINERD_NAME))
    ref = annotations.get(REF_NAME)
    if full is not None:
        usual = (None, "", full.tag, full.familiar)
        if ref in usual or _parsed(ref) == full:
            return full
    return _parsed(ref)


def _parsed(text: str | None) -> ImageName | None:
    try:
        name = parse_name(text).tagged() if text else None
    except UsageError:
        return None
    return None if name is None or name.reads_as_id else name


def _is_foreign(document: Mapping[str, Any]) -> bool:
    digest = document.get("digest")
    return isinstance(digest, str) and ":" in digest and not digest.startswith("sha256:")


@dataclass(frozen=True)
class Catalog:
    """The entries of one index.json, in its order.  Methods that change them return a new Catalog;
    write() writes the file.

    digest: of the file.  foreign: entries whose digest is not a sha256; they are kept unchanged.
    """

    entries: tuple[Entry, ...] = ()
    document: Mapping[str, Any] | None = None
    digest: Digest | None = None
    foreign: tuple[Mapping[str, Any], ...] = ()

    @classmethod
    def read(cls, layout: Layout) -> Catalog:
        """Empty if there is no store.  Raises MalformedImage, ImgmountError."""
        with store_errors(layout.index):
            try:
                data = read_file(layout.index)
            except FileNotFoundError:
                if layout.exists:
                    raise MalformedImage(
                        f"{layout.index}: not there, so nobody can say which images the store has"
                    ) from None
                return cls()
        where = str(layout.index)
        document = parse_json(data, where, INDEX_BYTES_MAX)
        if not isinstance(document, dict) or "manifests" not in document:
            raise MalformedImage(f"{where}: no index of manifests")
        listed = document["manifests"]  # Go writes null for an empty list
        fields = objects_of([] if listed is None else listed, f"{where}: manifests")
        foreign = tuple(f.document for f in fields if _is_foreign(f.document))
        entries = tuple(
            entry_of(parse_descriptor(f), f.document) for f in fields if not _is_foreign(f.document)
        )
        return cls(entries, document, Digest.of(data), foreign)

    def write(self, layout: Layout) -> Catalog:
        """Replaces index.json: from then on the store has these images (S2, S3).

        Under the exclusive lock.  Raises NoSpace, ImgmountError.
        """
        manifests = [*(entry.document() for entry in self.entries), *self.foreign]
        head = {"schemaVersion": 2, "mediaType": OCI + "index.v1+json"}
        document = head | dict(self.document or {}) | {"manifests": manifests}
        data = json.dumps(document, separators=(",", ":")).encode()
        if len(data) > INDEX_BYTES_MAX:  # no command could read it
            raise ImgmountError(
                f"{layout.index}: too many names: it would be {len(data)} bytes, the limit is "
                f"{INDEX_BYTES_MAX}"
            )
        with store_errors(layout.index):
            replace_file(layout.index, data)
        return replace(self, document=document, digest=Digest.of(data))

    @property
    def manifests(self) -> dict[Digest, str]:
        """Each manifest once, with its media type: it may have thousands of names."""
        return {d: entries[0].descriptor.media_type for d, entries in self._by_digest.items()}

    @cached_property
    def _by_digest(self) -> dict[Digest, list[Entry]]:
        found: dict[Digest, list[Entry]] = {}
        for entry in self.entries:
            found.setdefault(entry.digest, []).append(entry)
        return found

    def changed(self, entries: Iterable[Entry]) -> Catalog:
        return replace(self, entries=tuple(entries))

    def tagged(self, name: ImageName) -> Entry | None:
        """The entry with that tag; the last one, if another program wrote several."""
        return next((e for e in reversed(self.entries) if e.name == name), None)

    def of(self, digest: Digest) -> Sequence[Entry]:
        return self._by_digest.get(digest, ())

    def with_image(self, descriptor: Descriptor, names: Sequence[ImageName],
                   repo_digests: Sequence[str] = ()) -> Catalog:  # fmt: skip
        """With that manifest under these names, and the names that it had already.

        Other images lose these names.  An image that loses its last name stays, without a name.
        """
        taken = set(names)
        others, freed = [], []
        for entry in self.entries:
            if entry.name in taken:
                freed.append(replace(entry, name=None))
            else:
                others.append(entry)
        own = [entry for entry in others if entry.digest == descriptor.digest]
        known = [digest for entry in own for digest in entry.repo_digests]
        digests = tuple(dict.fromkeys([*known, *repo_digests]))
        kept = {entry.digest for entry in others} | {descriptor.digest}
        nameless = {e.digest: e for e in freed if e.digest not in kept}
        rest = [
            replace(entry, repo_digests=digests) if entry.digest == descriptor.digest else entry
            for entry in others
            if not (
                entry.digest == descriptor.digest
                and names
                and entry.name is None
                and not entry.foreign_name
            )
        ]
        base = next(iter(self.of(descriptor.digest)), Entry(descriptor))
        new = [replace(base, name=name, repo_digests=digests) for name in names]
        if not names and not own:
            new = [replace(base, name=None, repo_digests=digests)]
        return self.changed([*rest, *nameless.values(), *new])

    def without(self, gone: Iterable[Entry]) -> Catalog:
        away = set(map(id, gone))
        return self.changed(entry for entry in self.entries if id(entry) not in away)
