"""Law: writes layers, a config and a name as an image, in one of three forms.

    oci              a layout's directory; other images in it stay
    oci-archive      the same as a tar, with a manifest.json for docker from 1.10 on, which loads it
                     like an archive of docker 25
    docker-archive   manifest.json, <config hex>.json, <diff_id hex>.tar, layers uncompressed

Layers may be written in any order: finish() is given those of the image.  docker_archive.py and
oci.py read these forms; what their limits would refuse is not written.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from fusemount.budget import Budget
from fusemount.codec import PIECE, compressor
from fusemount.compression import Compression
from fusemount.dataclass import dataclass
from fusemount.digest import Digest
from fusemount.errors import MalformedImage, UsageError, VerificationFailed
from fusemount.image.model import CONTAINERD_NAME, OCI, REF_NAME, TAR_LAYER
from fusemount.image.parse import parse_docker_manifests, parse_index, parse_index_or_manifest
from fusemount.layer import LayerBlob, OpenLayer, UnpackedLayer
from fusemount.layer.beside import Beside
from fusemount.layer.decode import StretchReader, compression_at, read_tar
from fusemount.layer.progress import Progress, reported
from fusemount.reference import normalised_name
from fusemount.settings import UNPACK_LIMIT, Platform, UnpackLimit
from fusemount.sources.output import ArchiveOutput, LayoutOutput, Output, blob_path

FORMS = ("oci-archive", "docker-archive", "oci")
CONFIG_TYPE, MANIFEST_TYPE = OCI + "config.v1+json", OCI + "manifest.v1+json"


@dataclass(frozen=True)
class Target:
    """form: one of FORMS; path: the archive, or the layout's directory."""

    form: str
    path: Path


@dataclass(frozen=True)
class WrittenLayer:
    """A layer that was written.  digest, size: of the bytes in the archive or layout."""

    diff_id: Digest
    digest: Digest
    size: int
    compression: Compression


def parse_target(text: str, form: str | None) -> Target:
    """`FILE`, or `FORM:FILE` as skopeo has it; form: of --format.  Raises UsageError."""
    transport, colon, rest = text.partition(":")
    if colon and transport in FORMS:
        if form not in (None, transport):
            raise UsageError(f"{text}: {transport} by its name, but {form} by --format")
        form, text = transport, rest
    if not text or "\0" in text:
        raise UsageError("the output names no file")
    return Target(form or FORMS[0], Path(text))


class ImageWriter:
    """A context manager.  The image appears with finish(); without it, nothing is left.

    Raises NoSpace, ImgmountError; VerificationFailed if a layer has other bytes than before.
    """

    def __init__(
        self, target: Target, progress: Progress, unpack: UnpackLimit = UNPACK_LIMIT
    ) -> None:
        """unpack: limits the bytes of all layers that rebuild_layer() writes."""
        self._form, self._progress, self._budget = target.form, progress, Budget(unpack)
        layout = LayoutOutput(target.path) if target.form == "oci" else None
        self._layout = layout
        self._output: Output = layout or ArchiveOutput(target.path)
        self._naming = _docker_name if target.form == "docker-archive" else blob_path

    def __enter__(self) -> ImageWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._output.leave()

    # ---- layers -------------------------------------------------------------------------------

    def add_layer(self, pieces: Iterable[bytes], compression: Compression) -> WrittenLayer:
        """Writes a new layer from its tar.  In a docker-archive, compression must be NONE."""
        plain, packing = hashlib.sha256(), compressor(compression)
        with self._output.blob(self._naming) as blob:

            def take(piece: bytes) -> None:
                plain.update(piece)
                blob.write(packing.compress(piece))

            with Beside(take) as beside:
                for piece in pieces:
                    beside.put(piece)
            blob.write(packing.flush())
        diff_id = Digest("sha256:" + plain.hexdigest())
        return WrittenLayer(diff_id, blob.digest, blob.size, compression)

    def rebuild_layer(self, layer: UnpackedLayer, compression: Compression) -> WrittenLayer:
        """Writes a layer that another program's store keeps unpacked, as add_layer() does.

        Raises MalformedImage beyond the limit, which sparse files may reach.
        """
        with reported(self._progress, f"writing {layer.description}", layer.size) as advance:
            written = self.add_layer(self._counted(layer, advance), compression)
        if written.diff_id != layer.diff_id:
            raise VerificationFailed(
                f"{layer.description}: its files make {written.diff_id}, not the layer's "
                f"{layer.diff_id}: they were changed"
            )
        return written

    def _counted(self, layer: UnpackedLayer, advance: Callable[[int], None]) -> Iterator[bytes]:
        made = 0
        for piece in layer.tar():
            made += len(piece)
            self._budget.spend(layer.description, len(piece), made)
            advance(len(piece))
            yield piece

    def carry_layer(self, blob: LayerBlob, layer: OpenLayer) -> WrittenLayer:
        """Writes a layer of another image, byte for byte as that image has it.

        If the form has no name for its compression, the layer is written uncompressed.
        """
        found = compression_at(blob.fd, blob.offset, blob.size, blob.description)
        carried = self._form != "docker-archive" and found.media_suffix is not None
        compression = found if carried else Compression.NONE
        stored = found is compression
        size = blob.size if stored else layer.size
        claimed = layer.diff_id if compression is Compression.NONE else blob.digest
        try:
            with (
                reported(self._progress, f"writing {blob.description}", size) as advance,
                self._output.blob(self._naming) as out,
            ):
                if stored:
                    reader = StretchReader(
                        blob.fd, blob.offset, size, blob.description, advance, False
                    )
                    pieces = iter(lambda: reader.read(PIECE), b"")
                else:
                    pieces = read_tar(layer.tar, blob.description, advance)
                for piece in pieces:
                    out.write(piece)
        finally:
            blob.file.release()
        if claimed is not None and out.digest != claimed:
            raise VerificationFailed(f"{blob.description}: digest is {out.digest}, not {claimed}")
        diff_id = out.digest if compression is Compression.NONE else layer.diff_id
        if diff_id is None:
            raise MalformedImage(f"{blob.description}: its diff_id is not known")
        return WrittenLayer(diff_id, out.digest, size, compression)

    # ---- documents ----------------------------------------------------------------------------

    def finish(
        self, config: bytes, platform: Platform, layers: Sequence[WrittenLayer], name: str
    ) -> Digest:
        """Writes the documents; the image appears.  Returns the image ID.

        config has the diff_ids of these layers, lowest first.  name: NAME:TAG.
        """
        if self._form == "docker-archive":
            with self._output.blob(lambda digest: f"{digest.hex}.json") as blob:
                blob.write(config)
            names = [_docker_name(layer.diff_id) for layer in layers]
            self._docker_manifest(f"{blob.digest.hex}.json", name, names)
            self._output.finish()
            return blob.digest
        config_digest = self._blob(config, CONFIG_TYPE)["digest"]
        manifest = self._blob(new_manifest(config, layers), MANIFEST_TYPE)
        manifest["annotations"] = {CONTAINERD_NAME: normalised_name(name), REF_NAME: name}
        manifest["platform"] = _platform(platform)
        self._output.document("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        if self._form == "oci-archive":
            blobs = [blob_path(layer.digest) for layer in layers]
            self._docker_manifest(blob_path(config_digest), name, blobs)
        self._output.document("index.json", self._index(manifest, name))
        self._output.finish()
        return Digest(config_digest)

    def _blob(self, data: bytes, media_type: str) -> dict[str, Any]:
        """Writes a document as a blob.  Returns its descriptor."""
        with self._output.blob() as blob:
            blob.write(data)
        return {"mediaType": media_type, "digest": blob.digest, "size": blob.size}

    def _docker_manifest(self, config: str, name: str, layers: Sequence[str]) -> None:
        entry = {"Config": config, "RepoTags": [name], "Layers": list(layers)}
        data = compact_json([entry])
        parse_docker_manifests(data, "the new manifest.json")
        self._output.document("manifest.json", data)

    def _index(self, manifest: dict[str, Any], name: str) -> bytes:
        """index.json with this image.  A layout's other images stay, except one of this name."""
        document: dict[str, Any] = {"schemaVersion": 2, "mediaType": OCI + "index.v1+json"}
        others: list[Any] = []
        there = self._layout.existing_document("index.json") if self._layout is not None else None
        if there is not None:
            parse_index(there, "index.json of the layout that is there")
            document = json.loads(there)
            others = [
                entry
                for entry in document.get("manifests") or []
                if (entry.get("annotations") or {}).get(REF_NAME) != name
            ]
        data = compact_json(document | {"manifests": [*others, manifest]})
        parse_index(data, "the new index.json")
        return data


class Described(Protocol):
    """A layer's blob, as a manifest describes it."""

    @property
    def digest(self) -> Digest: ...
    @property
    def size(self) -> int: ...
    @property
    def compression(self) -> Compression: ...


def new_manifest(config: bytes, layers: Sequence[Described]) -> bytes:
    """The manifest of an image that has none, layers lowest first; the same for the same image.

    Raises MalformedImage beyond a limit of the readers.
    """
    described: list[dict[str, Any]] = [
        {
            "mediaType": TAR_LAYER + (layer.compression.media_suffix or ""),
            "digest": layer.digest,
            "size": layer.size,
        }
        for layer in layers
    ]
    head = {"mediaType": CONFIG_TYPE, "digest": Digest.of(config), "size": len(config)}
    document = {
        "schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": head, "layers": described,
    }  # fmt: skip
    data = compact_json(document)
    parse_index_or_manifest(data, "the new manifest")
    return data


def _docker_name(digest: Digest) -> str:
    return f"{digest.hex}.tar"


def _platform(platform: Platform) -> dict[str, str]:
    fields = {"architecture": platform.architecture, "os": platform.os, "variant": platform.variant}
    return {key: value for key, value in fields.items() if value}


def compact_json(value: Any) -> bytes:
    """A document without needless spaces."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
