"""Law: takes the images of archives and layouts into a store, under the names that they have there.

Manifests of an OCI layout stay the same, byte for byte.  A docker-archive has none, so each image
gets one.  It is made of the layers as the archive has them, so the same archive always becomes the
same image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from fusemount.budget import Budget
from fusemount.codec import decompress
from fusemount.compression import Compression
from fusemount.dataclass import dataclass
from fusemount.digest import Digest
from fusemount.errors import (
    ImageNotFound,
    MalformedImage,
    UsageError,
)
from fusemount.image.fields import DOCUMENT_BYTES_MAX, listed
from fusemount.image.model import Descriptor
from fusemount.imagename import ImageName, parse_name
from fusemount.layer import LayerBlob, measured
from fusemount.layer.decode import StretchReader, compression_at
from fusemount.settings import UNLIMITED, ImageOptions
from fusemount.sources import docker_archive
from fusemount.sources.choose import answers, merged
from fusemount.sources.image import Candidate, Image
from fusemount.sources.medium import Medium, read_document
from fusemount.sources.oci import blob_name
from fusemount.sources.stored import own_of
from fusemount.store import Lease, Store, StoredImage
from fusemount.store.intake import Claims, Part, Read, StoredLayer, take_layer
from fusemount.store.layout import Layout
from fusemount.transfer.archivelists import image_ids, stored_name, tops, whole
from fusemount.transfer.bring import Bringing
from fusemount.transfer.documents import Documents
from fusemount.transfer.newimage import add_new_image
from fusemount.transfer.ociform import OciForms
from fusemount.transfer.remadetar import reading, take_unpacked
from fusemount.transfer.reports import Transfers

IMAGES_MAX = 1_000  # of one archive that are loaded: each is written to index.json

Loaded = Callable[[StoredImage, Sequence[ImageName]], None]


@dataclass(frozen=True)
class MediumSource:
    """The BlobSource (bring.py) of an OCI layout, in a directory or a tar.

    of_store: the store that the layout is, whose indexes may list manifests of other images.
    """

    medium: Medium
    of_store: Layout | None = None

    @property
    def label(self) -> str:
        return self.medium.label

    @property
    def is_local(self) -> bool:
        return True

    def own(self, index: Digest, listed: Sequence[Descriptor]) -> Sequence[Descriptor]:
        return listed if self.of_store is None else own_of(self.of_store)(index, listed)

    def document(self, descriptor: Descriptor) -> bytes | None:
        return read_document(self.medium, blob_name(descriptor.digest), DOCUMENT_BYTES_MAX)

    def measured(self, descriptor: Descriptor) -> tuple[str, int] | None:
        stretch = self.medium.find(blob_name(descriptor.digest))
        return measured(stretch.file, stretch.offset, stretch.size) if stretch else ("", 0)

    def stop(self) -> None:
        """Its reads wait for nothing."""

    @contextmanager
    def layer(self, descriptor: Descriptor, offset: int) -> Iterator[Read]:
        stretch = self.medium.find(blob_name(descriptor.digest))
        where = f"{self.label}: layer {descriptor.digest}"
        if stretch is None:
            why = "a foreign layer, which is not in it" if descriptor.is_foreign else "not in it"
            raise MalformedImage(f"{where}: {why}")
        reader = StretchReader(
            stretch.file.fd, stretch.offset + offset, max(0, stretch.size - offset), where,
            lambda _: None, False,
        )  # fmt: skip
        try:
            yield reader.read
        finally:
            stretch.file.release()


def load_medium(
    store: Store,
    medium: Medium,
    progress: Transfers,
    *,
    only: str | None = None,
    named: bool = True,
    loaded: Loaded = lambda _image, _names: None,
    budget: Budget | None = None,
    of_store: Layout | None = None,
) -> list[StoredImage]:
    """Loads all images of an archive or layout, whose files the caller closes.

    only: load only images that this name or ID means.  named: they get their names in the archive.
    loaded: called for each image that the store has now, with the names that it got.
    budget: what all of them together may unpack to; None: the store's limit.
    of_store: the medium is this store.
    Raises ImageNotFound, MalformedImage, VerificationFailed, NoSpace, ImgmountError; images that
    were complete before the error stay.
    """
    source = MediumSource(medium, of_store)
    spent = budget or Budget(store.unpack)
    documents = Documents(source.label, source.document)
    loading = _Loading(store, source, progress, only, named, loaded, spent, documents)
    has_docker = medium.find("manifest.json") or medium.find("repositories")
    if medium.find("index.json") is not None:
        found = tops(medium, documents)
        found = whole(medium, found, documents) if has_docker else found
        if found:
            return loading.oci(found)
    if not has_docker:
        raise ImageNotFound(f"{medium.label}: there is no image in it")
    return loading.docker(merged(docker_archive.candidates(medium, ImageOptions())))


@dataclass(frozen=True)
class _Loading:
    store: Store
    source: MediumSource
    progress: Transfers
    only: str | None
    named: bool
    loaded: Loaded
    budget: Budget
    documents: Documents

    @property
    def medium(self) -> Medium:
        return self.source.medium

    def oci(self, tops: Sequence[Descriptor]) -> list[StoredImage]:
        chosen = tops
        if self.only is not None:
            chosen = [top for top in tops if answers(top.names, [top.digest], self.only)]
        if self.only is not None and not chosen:
            ids = {top.digest: image_ids(self.documents, top) for top in tops}
            chosen = [top for top in tops if answers((), ids[top.digest], self.only)]
        distinct = {top.digest: top for top in chosen}
        self._some(list(distinct), [name for top in tops for name in top.names])
        listed: dict[Digest, tuple[Descriptor, dict[ImageName, None]]] = {}
        for top in chosen:
            names = self._names(top.names)[:1]  # containerd's full name precedes the tag
            listed.setdefault(top.digest, (top, {}))[1].update(dict.fromkeys(names))
        images, store = [], self.store
        with store.lease("load", self.medium.label) as lease:
            forms, summaries = OciForms(store, lease), store.fresh_summaries()
            try:
                for top, called in listed.values():
                    made = forms.of(self._bring(top, lease))
                    images.append(store.add(made, tuple(called), summaries=summaries))
                    self.loaded(images[-1], tuple(called))
            finally:
                if images:
                    store.derive_with(summaries)
        return images

    def _bring(self, descriptor: Descriptor, lease: Lease) -> Descriptor:
        bringing = Bringing(
            self.store, lease, self.source, self.progress,
            lambda d: not d.is_attestation, self.budget, self.documents,
        )  # fmt: skip
        brought = bringing.bring(descriptor)
        assert brought.images
        return Descriptor(
            descriptor.media_type, descriptor.digest, descriptor.size, platform=descriptor.platform
        )

    def docker(self, found: Sequence[Candidate]) -> list[StoredImage]:
        chosen = [c for c in found if self.only is None or answers(c.names, c.ids, self.only)]
        self._some(chosen, [name for c in found for name in c.names])
        images = []
        for each in chosen:
            names = self._names(each.names)
            image = each.open(each.names)
            images.append(_load_docker(self.store, image, names, self.progress, self.budget))
            self.loaded(images[-1], names)
        return images

    def _some(self, chosen: Sequence[object], names: Sequence[str]) -> None:
        if len(chosen) > IMAGES_MAX:
            raise MalformedImage(
                f"{self.medium.label}: {len(chosen)} images in it, the limit is {IMAGES_MAX}"
            )
        if not chosen:
            there = listed(names) or "images without names"
            raise ImageNotFound(
                f"{self.medium.label}: no image {self.only!r} in it; it has {there}"
            )

    def _names(self, texts: Sequence[str]) -> list[ImageName]:
        called = (stored_name(text) for text in texts) if self.named else ()
        return list(dict.fromkeys(name for name in called if name is not None))


# ---- docker archives --------------------------------------------------------------------------


def load_opened(
    store: Store, image: Image, progress: Transfers, *, named: bool = True
) -> StoredImage:
    """Loads an image that was opened already.  named: it gets its names in that medium."""
    names = []
    for tag in image.repo_tags if named else ():
        with suppress(UsageError):  # a name of another program may be none of ours
            names.append(parse_name(tag).tagged())
    return _load_docker(store, image, names, progress, Budget(store.unpack))


def _load_docker(
    store: Store, image: Image, names: Sequence[ImageName], progress: Transfers, budget: Budget
) -> StoredImage:
    if not image.config_bytes:
        raise MalformedImage(
            f"{image.source}: written by docker before 1.10, without a config: it can be mounted, "
            "not loaded"
        )
    what = names[0].familiar if names else image.source
    with store.lease("load", what) as lease:
        layers = take_layers(store, lease, image, progress, budget)
        return add_new_image(store, lease, image.config_bytes, layers, image.platform, names)


def take_layers(
    store: Store, lease: Lease, image: Image, progress: Transfers, budget: Budget
) -> list[StoredLayer]:
    """Takes the layers of an opened image into the store, unchanged.  Lowest first."""
    budget.announce(dict(measured(b.file, b.offset, b.size) for b in image.layers))
    taken: dict[tuple[Path, int, int], StoredLayer] = {}
    found = []
    for blob in image.layers:
        key = (blob.file.path, blob.offset, blob.size)
        if key not in taken or blob.size == 0:
            taken[key] = _take(store, lease, blob, progress, budget)
        found.append(taken[key])
    for layer in image.unpacked:
        found.append(take_unpacked(store, lease, layer, progress, budget))
    return found


def _take(
    store: Store, lease: Lease, blob: LayerBlob, progress: Transfers, budget: Budget
) -> StoredLayer:
    task = progress.begin((blob.digest or blob.diff_id or "sha256:")[7:19], blob.size)
    there = _there(store, lease, blob)
    if there is not None:
        blob.file.release()
        task.done("Already exists")
        return there
    reader = StretchReader(blob.fd, blob.offset, blob.size, blob.description, lambda _: None, False)
    compression = compression_at(blob.fd, blob.offset, blob.size, blob.description)
    claims = Claims(blob.digest, blob.size, blob.diff_id)
    read: Read = reader.read
    if compression.media_suffix is None:  # no manifest can name it
        claims = Claims(None, None, blob.diff_id)
        plain = decompress(reader.read, compression, blob.description, budget, blob.size)
        read, budget = reading(plain), Budget(UNLIMITED)  # decompress() spends the budget
    with Part(store.layout, None) as part:
        layer = take_layer(
            store.layout, lease, part, read, claims, blob.description, budget, task.advance
        )
    blob.file.release()
    task.done("Loaded")
    return layer


def _there(store: Store, lease: Lease, blob: LayerBlob) -> StoredLayer | None:
    """The layer, if it is uncompressed, and the store has the same bytes; else None."""
    compression = compression_at(blob.fd, blob.offset, blob.size, blob.description)
    if blob.diff_id is None or compression is not Compression.NONE:
        return None
    lease.hold([blob.diff_id])
    if store.diff_id(blob.diff_id) != blob.diff_id:
        return None
    try:
        size = store.layout.blob_size(blob.diff_id)
    except FileNotFoundError:
        return None
    if size != blob.size:
        return None
    # Whoever knows the digest and size of another image's layer may have written other bytes here.
    reader = StretchReader(blob.fd, blob.offset, blob.size, blob.description, lambda _: None, True)
    if reader.digest() != blob.diff_id:
        return None
    return StoredLayer(blob.diff_id, size, blob.diff_id, size, Compression.NONE)
