"""Law: reads images of podman, buildah and skopeo in their store, and never locks or writes there.

    ROOT/DRIVER-images/images.json            id, names, digest, top layer of each image
    ROOT/DRIVER-images/<id>/<key>             documents: `manifest`; the config under its digest
    ROOT/DRIVER-layers/layers.json            id, parent, diff-digest of each layer
    ROOT/DRIVER-layers/<id>.tar-split.gz      (layer/unpacked.py)
    ROOT/overlay/<id>/diff                    the layer, in overlayfs' format
    ROOT/vfs/dir/<id>                         driver vfs: the layer with all layers below it

Additional stores have the same files, and an image may have layers in them.

Each file is replaced by a rename, so it is consistent in itself.  If an image is removed between
the reading of two files, it shows as damaged.  No symlink below ROOT is followed, because a store
may be a stranger's; containers/storage makes none on the way to these files.

Sources: containers/storage's images.go, layers.go, drivers/; containers/image's storage/.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from fusemount.dataclass import dataclass
from fusemount.digest import Digest
from fusemount.errors import ImageNotFound, MalformedImage, NotPermitted
from fusemount.image.fields import (
    DOCUMENT_BYTES_MAX,
    Fields,
    objects_of,
    parse_json,
    shown,
)
from fusemount.image.model import Manifest
from fusemount.image.parse import LAYERS_MAX, parse_config, parse_index_or_manifest
from fusemount.layer import UnpackedLayer
from fusemount.layer.marks import origin_of_store
from fusemount.reference import Reference
from fusemount.settings import ImageOptions, Platform
from fusemount.sources.choose import choose
from fusemount.sources.image import Candidate, Image, verified
from fusemount.sources.medium import Directory, Links, read_document

RECORDS_BYTES_MAX = 256 << 20  # images.json, layers.json: half a kilobyte a record
_OVERLAY, _WHOLE = "overlay", "vfs"
_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,254}")
_HEX = re.compile(r"[0-9a-f]{1,64}")
_PLAIN_KEY = re.compile(r"[.0-9a-z]+")


def open_containers_storage(reference: Reference, options: ImageOptions) -> Image:
    """Raises ImageNotFound, MalformedImage, VerificationFailed, PlatformMismatch, NotPermitted."""
    label = f"containers-storage:[{reference.path}]"
    with ExitStack() as undo:
        stores: list[_Store] = []
        for number, root in enumerate((reference.path, *reference.more)):
            for driver in _drivers(root, reference.driver, optional=number > 0):
                medium = Directory(root, Links.NONE)
                undo.callback(medium.close)
                stores.append(_Store(medium, root, driver))
        reader = _Reader(label, stores, options.verify)
        candidates = reader.candidates()
        if not candidates:
            raise ImageNotFound(f"{label}: no image is kept there")
        name = _asked(reference.name)
        return choose(candidates, name, options, label, given_as="containers-storage:")


def _asked(name: str | None) -> str | None:
    """`NAME@ID`, `NAME@DIGEST@ID` and `@ID` mean the ID; `NAME@DIGEST` stays."""
    _, at, last = (name or "").rpartition("@")
    return last if at and _HEX.fullmatch(last) and len(last) >= 6 else name


def _drivers(root: Path, wanted: str, optional: bool) -> list[str]:
    """Drivers that keep images at the root.  An additional store (optional) may have none."""
    try:
        there = sorted(os.listdir(root))
    except PermissionError as error:
        raise NotPermitted(f"{root}: {error.strerror}") from error
    except OSError as error:
        if optional:
            return []
        raise ImageNotFound(
            f"{root}: {error.strerror}; containers-storage:[DRIVER@ROOT]NAME says where it is"
        ) from None
    found = [name.removesuffix("-images") for name in there if name.endswith("-images")]
    if wanted in found or optional:
        return [driver for driver in found if driver == wanted or not wanted]
    if not found:
        raise ImageNotFound(f"{root}: no store of containers' images")
    if wanted:
        raise ImageNotFound(f"{root}: driver {wanted!r} keeps no images there, {found[0]} does")
    return sorted(found, key=lambda driver: (driver != _OVERLAY, driver))


@dataclass(frozen=True)
class _Store:
    """The files of one driver below one root."""

    medium: Directory
    root: Path
    driver: str

    def records(self, kind: str, *names: str) -> list[Fields]:
        """The records in DRIVER-<kind>/<names>; missing files have none."""
        found = []
        for name in names:
            path = f"{self.driver}-{kind}/{name}"
            where = f"{self.root}/{path}"
            data = read_document(self.medium, path, RECORDS_BYTES_MAX)
            if data is not None:
                found += objects_of(parse_json(data, where, RECORDS_BYTES_MAX) or [], where)
        return found

    def document(self, ident: str, key: str) -> bytes | None:
        """A document of an image; None if missing (storage/images.go, makeBigDataBaseName)."""
        encoded = "=" + base64.b64encode(key.encode()).decode()
        name = key if _PLAIN_KEY.fullmatch(key) else encoded
        path = f"{self.driver}-images/{ident}/{name}"
        return read_document(self.medium, path, DOCUMENT_BYTES_MAX)

    def tree(self, layer: str) -> Path:
        inside = f"dir/{layer}" if self.driver == _WHOLE else f"{layer}/diff"
        return self.root / self.driver / inside

    def split(self, layer: str) -> Path:
        return self.root / f"{self.driver}-layers" / f"{layer}.tar-split.gz"


_Found = tuple[_Store, Fields]  # a record, and the store that has it


class _Reader:
    """Reads images and layers of the first store and the additional ones."""

    def __init__(self, label: str, stores: Sequence[_Store], verify: bool) -> None:
        self._label, self._stores, self._verify = label, stores, verify
        self._layers: dict[tuple[str, str], _Found] | None = None

    def candidates(self) -> list[Candidate]:
        return [
            self._candidate(store, record)
            for store in self._stores
            for record in store.records("images", "images.json")
        ]

    def _candidate(self, store: _Store, record: Fields) -> Candidate:
        ident = _checked_id(record, "id")
        digests = _digests(record)
        names = record.texts("names") or ()

        def platform() -> Platform | None:
            return parse_config(*self._config(store, record)[:2]).platform

        def open_it(names: tuple[str, ...]) -> Image:
            return self._open(store, record, names)

        return Candidate(
            key=ident,
            names=tuple(name for name in names if "@" not in name),
            ids=(f"sha256:{ident}", *digests),
            platform=platform,
            open=open_it,
        )

    def _where(self, record: Fields) -> str:
        return f"{self._label}: image {shown(record.text('id'))[:12]}"

    def _config(self, store: _Store, record: Fields) -> tuple[bytes, str, Digest, Digest]:
        """(config, its name in messages, its digest, the manifest's)."""
        where, ident = self._where(record), record.text("id")
        data = store.document(ident, "manifest")
        if data is None:
            raise MalformedImage(f"{where}: its manifest is not there")
        manifest = parse_index_or_manifest(data, f"{where}: manifest")
        if not isinstance(manifest, Manifest):
            raise ImageNotFound(f"{where}: a list of manifests, not an image: name one of its own")
        digest = manifest.config.digest
        config = store.document(ident, digest)
        if config is None:
            raise MalformedImage(f"{where}: its configuration {digest} is not there")
        verified(config, digest, f"{where}: config", self._verify)
        return config, f"{where}: config", digest, Digest.of(data)

    def _open(self, store: _Store, record: Fields, names: tuple[str, ...]) -> Image:
        where = self._where(record)
        data, named, digest, manifest_digest = self._config(store, record)
        config = parse_config(data, named)
        chain = self._chain(store, record, where)
        if len(chain) != len(config.diff_ids):
            raise MalformedImage(
                f"{where}: the config lists {len(config.diff_ids)} layers, {len(chain)} are there"
            )
        layers = tuple(
            self._layer(*found, diff_id, f"{where}: layer {i} of {len(chain)}")
            for i, (found, diff_id) in enumerate(zip(chain, config.diff_ids, strict=True), 1)
        )
        trees = tuple(layer.tree for layer in layers)
        return Image(
            source=where,
            config=config,
            config_digest=digest,
            manifest_digest=manifest_digest,
            repo_tags=names,
            platform=config.platform,
            layers=(),
            files=(),
            directories=trees[-1:] if store.driver == _WHOLE else trees,
            unpacked=layers,
            config_bytes=data,
            repo_digests=_repo_digests(record),
            origin=origin_of_store(store.root, (each.root for each in self._stores)),
        )

    # ---- layers -------------------------------------------------------------------------------

    def _chain(self, store: _Store, record: Fields, where: str) -> list[_Found]:
        """The records of an image's layers, lowest first."""
        chain: list[_Found] = []
        if store.driver not in (_OVERLAY, _WHOLE):
            raise ImageNotFound(
                f"{where}: its layers are kept by driver {shown(store.driver)}, which is not read "
                "in place; `podman save` writes them to a file"
            )
        known = self._known_layers()
        ident = record.text("layer")
        while ident:
            found = known.get((store.driver, ident))
            if found is None:
                raise MalformedImage(f"{where}: its layer {shown(ident)[:12]} is not there")
            if len(chain) == LAYERS_MAX:
                raise MalformedImage(f"{where}: more than {LAYERS_MAX} layers, the limit")
            chain.append(found)
            ident = found[1].text("parent")
        return chain[::-1]

    def _known_layers(self) -> dict[tuple[str, str], _Found]:
        if self._layers is None:
            self._layers = {}
            for store in self._stores:
                for record in store.records("layers", "layers.json", "volatile-layers.json"):
                    key = store.driver, _checked_id(record, "id")
                    self._layers.setdefault(key, (store, record))
        return self._layers

    def _layer(self, store: _Store, record: Fields, diff_id: Digest, where: str) -> UnpackedLayer:
        ident = record.text("id")
        where = f"{where} ({ident[:12]}…)"
        if record.mapping("flags").get("incomplete"):
            raise MalformedImage(f"{where}: not whole: who made it was broken off")
        recorded = record.text("diff-digest")
        if recorded and recorded != diff_id:
            raise MalformedImage(f"{where}: holds {shown(recorded)}, the config says {diff_id}")
        tree = store.tree(ident)
        if os.path.exists(tree.parent / "composefs-data"):
            raise ImageNotFound(
                f"{where}: kept as composefs, which is not read in place; `podman save` "
                "writes it to a file"
            )
        if not os.path.isdir(tree):
            raise MalformedImage(f"{where}: its directory {tree} is not there")
        return UnpackedLayer(
            diff_id, record.count("diff-size"), tree, store.split(ident), where, store.root
        )


def _digests(record: Fields) -> list[str]:
    """Digests of the image's manifest, and of the manifests and indexes it was pulled by."""
    keys = record.texts("big-data-names") or ()
    recorded = [key.removeprefix("manifest-") for key in keys if key.startswith("manifest-")]
    return list(dict.fromkeys(each for each in (record.text("digest"), *recorded) if each))


def _repo_digests(record: Fields) -> tuple[str, ...]:
    """As podman lists them (libimage/image.go, RepoDigests): each repository with each digest."""
    repositories = {_repository(name) for name in record.texts("names") or ()}
    return tuple(sorted(f"{name}@{digest}" for name in repositories for digest in _digests(record)))


def _repository(name: str) -> str:
    head, slash, last = name.partition("@")[0].rpartition("/")
    return head + slash + last.partition(":")[0]


def _checked_id(record: Fields, key: str) -> str:
    ident = record.text(key)
    if not _ID.fullmatch(ident):
        raise record.bad(key, f"{shown(ident)!r} is no ID")
    return ident
