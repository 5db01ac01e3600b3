"""Law: finds images of a store by name or ID, adds images, and gives them names.

Reading needs no lock.  index.json is replaced as a whole, and blobs stay while a name leads to them
or a lease lists them.  A writer takes a lease first, brings blobs (intake.py), and calls add().
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from fusemount.dataclass import dataclass
from fusemount.digest import Digest
from fusemount.errors import (
    ImageNotFound,
    ImgmountError,
    MalformedImage,
    UsageError,
    VerificationFailed,
)
from fusemount.image.fields import listed
from fusemount.image.model import Descriptor
from fusemount.imagename import DOCKER_HUB, ImageName, parse_name
from fusemount.ownfile import read_file
from fusemount.record import read_sealed, sealed
from fusemount.settings import UNPACK_LIMIT, UnpackLimit
from fusemount.store import diffids, layerdb
from fusemount.store.catalog import Catalog, Entry
from fusemount.store.layout import Layout, replace_file, store_errors
from fusemount.store.locks import Holder, Lease, NoLease, locked
from fusemount.store.measuring import learn
from fusemount.store.repositories import repositories_json
from fusemount.store.summary import Summaries, Summary

_SEEN_VERSION = 1  # of the files in v2metadata-by-diffid
SEEN_MAX = 50  # blobs in registries that are remembered for one layer
_SHORT_ID = re.compile(r"(sha256:)?([0-9a-f]{2,64})")


@dataclass(frozen=True)
class StoredImage:
    """A manifest, or an index, of a store.

    entries: its entries in index.json: one for each name, or one without a name.
    """

    digest: Digest
    entries: tuple[Entry, ...]
    summary: Summary

    @property
    def descriptor(self) -> Descriptor:
        return self.entries[0].descriptor

    @property
    def names(self) -> tuple[ImageName, ...]:
        names = (entry.name for entry in self.entries if entry.name is not None)
        return tuple(dict.fromkeys(names))

    @property
    def is_dangling(self) -> bool:
        """Whether it has no name, of ours or of another program."""
        return not any(entry.name or entry.foreign_name for entry in self.entries)

    @property
    def repo_digests(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(d for entry in self.entries for d in entry.repo_digests))

    @property
    def image_id(self) -> Digest:
        """The digest of the config; the own digest of an index, which has no config."""
        return self.summary.config or self.digest


@dataclass(frozen=True)
class RegistryBlob:
    """A layer's blob in a registry.  size: bytes; media_type: "" if it was not given."""

    digest: Digest
    size: int
    repository: str
    media_type: str = ""


class Store:
    """The store at one root.  If it is missing, it is made with `create`, and is empty without.

    unpack: what an image that is taken in may unpack to.
    Raises NotPermitted if another user could have put files into it; NoSpace, ImgmountError.
    """

    def __init__(
        self,
        root: Path,
        *,
        create: bool = False,
        default_domain: str = DOCKER_HUB,
        unpack: UnpackLimit = UNPACK_LIMIT,
    ) -> None:
        self.unpack = unpack
        self.layout = Layout(root)
        self.default_domain = default_domain
        self.layout.check_owner()
        if create:
            self.layout.make()

    @property
    def root(self) -> Path:
        return self.layout.root

    # ---- finding images -----------------------------------------------------------------------

    def images(self) -> list[StoredImage]:
        """All, in the order of index.json.  Raises MalformedImage, ImgmountError."""
        return self.read()[1]

    def read(self) -> tuple[Catalog, list[StoredImage], Summaries]:
        catalog, summaries = Catalog.read(self.layout), Summaries(self.layout, tolerant=True)
        by_digest: dict[Digest, list[Entry]] = {}
        for entry in catalog.entries:
            by_digest.setdefault(entry.digest, []).append(entry)
        images = [
            StoredImage(d, tuple(es), summaries.of(d, es[0].descriptor.media_type))
            for d, es in by_digest.items()
        ]
        return catalog, images, summaries

    def find(
        self, text: str, catalog: Catalog | None = None, summaries: Summaries | None = None
    ) -> StoredImage:
        """By name (`:latest` if no tag is given), NAME@DIGEST, or the start of an ID or of a
        manifest's digest.  Raises ImageNotFound, which lists similar names; UsageError."""
        catalog = catalog or Catalog.read(self.layout)
        summaries = summaries or Summaries(self.layout, tolerant=True)
        entries = self.called(catalog, text)
        if not entries:
            return self._by_id(text, catalog, summaries)
        digest = entries[-1].digest
        media_type = entries[-1].descriptor.media_type
        summary = summaries.of(digest, media_type)
        return StoredImage(digest, tuple(catalog.of(digest)), summary)

    def name(self, text: str) -> ImageName:
        """With the default tag. Raises UsageError."""
        return parse_name(text, self.default_domain).tagged()

    def called(self, catalog: Catalog, text: str) -> list[Entry]:
        """The entries that a name or NAME@DIGEST means; none for an ID."""
        if text.startswith("sha256:"):
            return []
        try:
            name = self.name(text)
        except UsageError:
            return [e for e in catalog.entries if text and e.foreign_name == text]
        if name.digest is not None:
            wanted = str(name.with_digest(name.digest))
            own = {name.repository}
            return [
                e for e in catalog.entries
                if wanted in e.repo_digests
                or (e.digest == name.digest and e.name is not None and e.name.repository in own)
            ]  # fmt: skip
        found = catalog.tagged(name)
        if found is None and "/" not in text:  # podman and buildah name their own images so
            found = catalog.tagged(
                ImageName("localhost", name.path.removeprefix("library/"), name.tag)
            )
        return [found] if found is not None else []

    def _by_id(self, text: str, catalog: Catalog, summaries: Summaries) -> StoredImage:
        found: dict[Digest, StoredImage] = {}
        short = _SHORT_ID.fullmatch(text)
        if short is not None:
            for digest, media_type in catalog.manifests.items():
                summary = summaries.of(digest, media_type)
                ids = [digest, summary.config or digest]
                if any(ident.hex.startswith(short[2]) for ident in ids):
                    found[digest] = StoredImage(digest, tuple(catalog.of(digest)), summary)
        different = {image.image_id for image in found.values()}
        if len(different) > 1:
            there = listed(sorted(ident[:19] for ident in different))
            raise ImageNotFound(f"{text}: several images have an ID that starts so: {there}")
        if not found:
            raise ImageNotFound(self._missing(text, catalog))
        return next(iter(found.values()))

    def same_id(
        self, image: StoredImage, catalog: Catalog, summaries: Summaries
    ) -> list[StoredImage]:
        """All images with that image's ID.

        Several manifests may have one config, if they differ in how layers are compressed.
        """
        found = {image.digest: image}
        for digest, media_type in catalog.manifests.items():
            summary = summaries.of(digest, media_type)
            if (summary.config or digest) == image.image_id:
                found.setdefault(digest, StoredImage(digest, tuple(catalog.of(digest)), summary))
        return list(found.values())

    def _missing(self, text: str, catalog: Catalog) -> str:
        names = [entry.name.familiar for entry in catalog.entries if entry.name is not None]
        last = text.rpartition("/")[2].partition(":")[0]
        like = [name for name in names if last and last in name]
        there = f"; it has {listed(like)}" if like else ""
        return f"{text}: no such image in the store {self.root}{there}"

    def diff_id(self, digest: Digest) -> Digest | None:
        """The diff_id of a layer's blob; None if it was never measured."""
        known = diffids.known(self.layout, digest)
        return None if known is None else known.diff_id

    # ---- adding and naming images -------------------------------------------------------------

    def lease(self, kind: str, what: str, where: str = "") -> Lease:
        """A lease.  Take it before bringing blobs or relying on them.  kind, where: see Holder."""
        return Lease(self.layout, Holder(kind, os.getpid(), what, where))

    def reading(self, kind: str, what: str) -> Lease | NoLease:
        """A lease for a caller that only reads.

        A store that cannot be written to needs no lease, because nothing is deleted from it.
        """
        try:
            return self.lease(kind, what)
        except ImgmountError as error:
            cause = error.__cause__
            if isinstance(cause, OSError) and cause.errno in (errno.EROFS, errno.EACCES):
                return NoLease()
            raise

    def hold(self, lease: Lease | NoLease, image: StoredImage) -> None:
        """All blobs of the image stay from here on.  It may be one platform of an index.

        Raises ImageNotFound if it was removed just now.
        """
        summaries = Summaries(self.layout, tolerant=True)
        lease.hold(summaries.blobs(image.digest, image.descriptor.media_type))
        catalog = Catalog.read(self.layout)
        below = (d for each in catalog.manifests for d, _ in summaries.reached(each))
        if not catalog.of(image.digest) and image.digest not in below:
            raise ImageNotFound(f"{image.image_id[:19]}: was removed just now")

    def add(
        self,
        descriptor: Descriptor,
        names: Sequence[ImageName] = (),
        repo_digests: Sequence[str] = (),
        summaries: Summaries | None = None,
    ) -> StoredImage:
        """Makes a manifest an image of the store (S2), under these names.

        All its blobs are in the store, and a lease of the caller lists them.  summaries: of images
        that came together (fresh_summaries()); the caller then calls derive_with() after the last
        one.  Raises MalformedImage if a blob is missing, VerificationFailed if one is damaged or
        not what the config says, NoSpace, ImgmountError.
        """
        computed = summaries or self.fresh_summaries()
        self._check_whole(descriptor, computed)
        self._learn(descriptor, computed)
        reached = list(computed.reached(descriptor.digest, descriptor.media_type))
        self._check_claims(reached)

        def work(catalog: Catalog) -> Catalog:
            for _, summary in reached:
                if summary.what == "image":
                    layerdb.put_chain(self.layout, summary.layers)
            return catalog.with_image(descriptor, names, repo_digests)

        after = self.change(work, computed, derive=summaries is None)
        entries = tuple(after.of(descriptor.digest))
        summary = computed.of(descriptor.digest, descriptor.media_type)
        return StoredImage(descriptor.digest, entries, summary)

    def fresh_summaries(self) -> Summaries:
        """Computed from the blobs, because what came now may complete what was there before."""
        return Summaries(self.layout, kept=False)

    def _check_whole(self, descriptor: Descriptor, summaries: Summaries) -> None:
        for digest in summaries.blobs(descriptor.digest, descriptor.media_type):
            if not self.layout.has_blob(digest):
                raise MalformedImage(
                    f"manifest {descriptor.digest}: blob {digest} is not in the store {self.root}"
                )

    def _learn(self, descriptor: Descriptor, summaries: Summaries) -> None:
        """Measures layers that another program brought."""
        reached = summaries.reached(descriptor.digest, descriptor.media_type)
        layers = {row.digest for _, summary in reached for row in summary.layers}
        for digest in layers:
            if self.diff_id(digest) is None and learn(self.layout, digest) is None:
                raise VerificationFailed(f"blob {digest} of the store {self.root}: damaged")

    def _check_claims(self, reached: Sequence[tuple[Digest, Summary]]) -> None:
        """Raises VerificationFailed if a config claims another diff_id than a layer has."""
        known: dict[Digest, Digest | None] = {}
        for digest, summary in reached:
            for row in summary.layers:
                if row.digest not in known:
                    known[row.digest] = self.diff_id(row.digest)
                if known[row.digest] != row.diff_id:
                    raise VerificationFailed(
                        f"manifest {digest}: layer {row.digest}: diff_id is {known[row.digest]}, "
                        f"the config says {row.diff_id}"
                    )

    def tag(self, source: str, target: ImageName) -> StoredImage:
        """Gives the image one more name.  Raises ImageNotFound; UsageError for a digest."""
        if target.digest is not None:
            raise UsageError(f"{target}: a tag cannot be a digest")
        if target.reads_as_id:
            raise UsageError(f"{target.familiar}: reads as an ID: no name for a tag")
        found: list[StoredImage] = []

        def tagged(catalog: Catalog) -> Catalog:
            found.append(self.find(source))  # under the lock: before, it could be removed
            return catalog.with_image(found[0].descriptor, [target.tagged()])

        entries = self.change(tagged).of(found[0].digest)
        return replace(found[0], entries=tuple(entries))

    def change(
        self,
        work: Callable[[Catalog], Catalog],
        computed: Summaries | None = None,
        *,
        derive: bool = True,
    ) -> Catalog:
        """Writes work(catalog) as index.json, and the derived files, under the exclusive lock.

        computed: summaries that need not be computed again.  derive: else only index.json.
        """
        with locked(self.layout, exclusive=True):
            before = Catalog.read(self.layout)
            after = work(before)
            if after.entries != before.entries or before.document is None:
                after = after.write(self.layout)
            if derive:
                self._derive(after, computed)
        return after

    def derive_with(self, computed: Summaries) -> None:
        """Writes the derived files after images were added that came together."""
        with locked(self.layout, exclusive=True):
            self._derive(Catalog.read(self.layout), computed)

    def _derive(self, catalog: Catalog, computed: Summaries | None) -> None:
        summaries = Summaries(self.layout, tolerant=True)
        if computed is not None:
            summaries.adopt(computed)
        self.derive(catalog, summaries)

    def derive(self, catalog: Catalog, summaries: Summaries) -> None:
        """Writes repositories.json and the summaries."""
        data = repositories_json(catalog, summaries)
        with store_errors(self.layout.repositories):
            old = b""
            with suppress(FileNotFoundError):
                old = read_file(self.layout.repositories)
            if old != data:
                replace_file(self.layout.repositories, data)
        summaries.save(catalog.manifests)

    # ---- blobs in registries ------------------------------------------------------------------

    def remember_blob(self, diff_id: Digest, blob: RegistryBlob) -> None:
        """Remembers that a repository of a registry has this blob of the layer."""
        path = self.layout.metadata / diff_id.hex
        place = (blob.digest, blob.repository)
        rows = [r for r in self.known_blobs(diff_id) if (r.digest, r.repository) != place]
        documents = [
            {"Digest": r.digest, "Size": r.size, "SourceRepository": r.repository,
             "MediaType": r.media_type}
            for r in (*rows[1 - SEEN_MAX :], blob)
        ]  # fmt: skip
        with locked(self.layout, exclusive=False), store_errors(path):
            data = sealed(json.dumps(documents).encode(), _SEEN_VERSION, _seen_key(diff_id))
            replace_file(path, data, durable=False)

    def known_blobs(self, diff_id: Digest) -> list[RegistryBlob]:
        """A layer's blobs in registries; the one that was remembered last is the last."""
        path = self.layout.metadata / diff_id.hex
        data = read_sealed(path, _SEEN_VERSION, _seen_key(diff_id))
        return [
            RegistryBlob(Digest(r["Digest"]), r["Size"], r["SourceRepository"], r["MediaType"])
            for r in json.loads(data or b"[]")
        ]


def _seen_key(diff_id: Digest) -> str:
    return f"registries of {diff_id}"
