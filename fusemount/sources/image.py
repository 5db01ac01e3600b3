"""Law: describes one image and where its layers are, which are not read yet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from fusemount.budget import Budget
from fusemount.dataclass import dataclass
from fusemount.digest import Digest
from fusemount.errors import ImageNotFound, MalformedImage, VerificationFailed
from fusemount.image.fields import shown
from fusemount.image.model import ImageConfig
from fusemount.image.parse import parse_config
from fusemount.layer import BlobFile, LayerBlob, UnpackedLayer
from fusemount.layer.marks import ANYBODYS, Origin
from fusemount.settings import Platform
from fusemount.sources.medium import Medium, Stretch


@dataclass(frozen=True)
class Image:
    """A context manager that closes its files.  Layers that were opened from it stay open.

    source: the archive or directory as given, for messages.
    config_digest: sha256 of the config's bytes, which is the image ID.  None if there is no config
    (a plain tar, docker before 1.10); then v1_id may be the ID that docker gave it.
    layers: lowest first.
    directories: mounted instead of layers, if these are unpacked; lowest first.
    unpacked: the layers in these directories, if a config describes them.
    origin: which program wrote the directories; it decides which marks count (layer/marks.py).
    config_bytes: the config as it was read, b"" if there is none.
    cache: the cache directory for its layers; None: the user's.
    store: the root of the store that has it, None if it is in no store.
    repo_digests: NAME@DIGEST of registries that have it, if the medium keeps them; None: they
    follow from repo_tags and manifest_digest.
    budget: what its layers may unpack to, after the archive around them was unpacked; None: there
    is no archive around them.
    """

    source: str
    config: ImageConfig
    config_digest: Digest | None
    manifest_digest: Digest | None
    repo_tags: tuple[str, ...]
    platform: Platform
    layers: tuple[LayerBlob, ...]
    files: tuple[BlobFile, ...]
    v1_id: str = ""
    directories: tuple[Path, ...] = ()
    unpacked: tuple[UnpackedLayer, ...] = ()
    origin: Origin = ANYBODYS
    config_bytes: bytes = b""
    cache: Path | None = None
    store: Path | None = None
    repo_digests: tuple[str, ...] | None = None
    budget: Budget | None = None

    @property
    def image_id(self) -> str:
        """`sha256:...`, or "" if the image has no ID."""
        return self.config_digest or (f"sha256:{self.v1_id}" if self.v1_id else "")

    @property
    def layer_sizes(self) -> tuple[int, ...]:
        """Bytes, lowest first: of a blob as stored; of an unpacked layer as its store counts."""
        packed = [layer.size for layer in self.layers]
        return (*packed, *(layer.size for layer in self.unpacked))

    @property
    def is_bare(self) -> bool:
        """Whether it is directories without a config."""
        return bool(self.directories) and self.config_digest is None

    def described(self) -> Image:
        """The image itself.  Raises ImageNotFound if it has no config."""
        if self.is_bare:
            raise ImageNotFound(f"{self.source}: directories have no image configuration")
        return self

    def close(self) -> None:
        for file in self.files:
            file.close()

    def __enter__(self) -> Image:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


@dataclass(frozen=True)
class Candidate:
    """An image of a medium that may be chosen (choose.py).

    key: equal for two entries of one image.  names: as the medium has them.
    ids: the image ID, digests of manifests.
    platform: returns the platform, for which it may read the config; None if none is given.
    open: opens the image, given all its names.
    """

    key: str
    names: tuple[str, ...]
    ids: tuple[str, ...]
    platform: Callable[[], Platform | None]
    open: Callable[[tuple[str, ...]], Image]


@dataclass(frozen=True)
class FoundLayer:
    """A layer as a manifest lists it, and the stretch of a file that it is."""

    name: str
    stretch: Stretch
    digest: Digest | None = None
    media_type: str = ""


def verified(data: bytes, claimed: Digest | None, where: str, verify: bool) -> Digest:
    """The digest of a document.  With verify, VerificationFailed if it is not the claimed one."""
    digest = Digest.of(data)
    if verify and claimed is not None and claimed != digest:
        raise VerificationFailed(f"{where}: digest is {digest}, its reference says {claimed}")
    return digest


def layer_blobs(
    label: str, layers: Sequence[FoundLayer], diff_ids: Sequence[Digest | None]
) -> tuple[LayerBlob, ...]:
    """The layers' blobs.  Raises MalformedImage unless each layer has a diff_id (or None)."""
    if len(layers) != len(diff_ids):
        raise MalformedImage(
            f"{label}: the config lists {len(diff_ids)} diff_ids, the manifest {len(layers)} layers"
        )
    return tuple(
        LayerBlob(
            diff_id=diff_id,
            digest=layer.digest,
            media_type=layer.media_type,
            file=layer.stretch.file,
            offset=layer.stretch.offset,
            size=layer.stretch.size,
            description=f"{label}: layer {i} of {len(layers)} ({_shortened(layer.name)})",
        )
        for i, (layer, diff_id) in enumerate(zip(layers, diff_ids, strict=True), 1)
    )


def _shortened(name: str) -> str:
    """The name, 64-digit components cut to 12 digits, as docker shows IDs."""
    parts = (part[:12] + "…" if len(part) == 64 else part for part in name.split("/"))
    return shown("/".join(parts))


def image_of(
    medium: Medium,
    config_bytes: bytes,
    config_digest: Digest,
    layers: Sequence[FoundLayer],
    *,
    manifest_digest: Digest | None,
    names: tuple[str, ...],
) -> Image:
    """An image from its config and its layers.  Raises MalformedImage."""
    config = parse_config(config_bytes, f"{medium.label}: image config")
    return Image(
        source=medium.label,
        config=config,
        config_digest=config_digest,
        manifest_digest=manifest_digest,
        repo_tags=names,
        platform=config.platform,
        layers=layer_blobs(medium.label, layers, config.diff_ids),
        files=tuple(medium.files()),
        config_bytes=config_bytes,
    )
