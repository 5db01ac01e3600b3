"""Law: one image, chosen and described, its blobs located and not yet read."""

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
    """A context manager that closes its files; layers opened from it live on.

    source: the archive or directory as given, for messages.
    config_digest: sha256 of the config's bytes, which is the image ID; None where the archive has
    no config (a plain tar, docker before 1.10), then v1_id may be that docker's ID.
    layers: lowest first.  directories: what is mounted instead where layers are unpacked, lowest
    first; unpacked: those layers, where the directories belong to a described image.
    origin: who wrote the directories, which says whose marks count (layer/marks.py).
    config_bytes: as they were read, b"" where there are none.  cache: where what is known of its
    layers is kept, None: where all of that is.  store: the root of the store that it is in.
    repo_digests: NAME@DIGEST of registries that have it, where the medium keeps them; None: they
    follow from repo_tags and manifest_digest.  budget: what its layers may unpack to, less what the
    archive around them did; None: nothing is around them.
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
        """`sha256:...`, or "" for what has no ID."""
        return self.config_digest or (f"sha256:{self.v1_id}" if self.v1_id else "")

    @property
    def layer_sizes(self) -> tuple[int, ...]:
        """Lowest first: bytes as stored, of unpacked layers as who unpacked them counts."""
        packed = [layer.size for layer in self.layers]
        return (*packed, *(layer.size for layer in self.unpacked))

    @property
    def is_bare(self) -> bool:
        """Directories that nothing describes."""
        return bool(self.directories) and self.config_digest is None

    def described(self) -> Image:
        """Itself. Raises ImageNotFound where there is nothing that describes it."""
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
    """An image that may be the one asked for.

    key: equal for two entries of one image.  names: as its medium has them.
    ids: what else it may be asked for by (image ID, manifest digest).
    platform: told when asked, since that may mean reading a config; None: it does not say.
    open: the image, once chosen, given all names it goes by.
    """

    key: str
    names: tuple[str, ...]
    ids: tuple[str, ...]
    platform: Callable[[], Platform | None]
    open: Callable[[tuple[str, ...]], Image]


@dataclass(frozen=True)
class FoundLayer:
    """A layer as a manifest lists it, and where it stands."""

    name: str
    stretch: Stretch
    digest: Digest | None = None
    media_type: str = ""


def verified(data: bytes, claimed: Digest | None, where: str, verify: bool) -> Digest:
    """The digest of a document's bytes.  Raises VerificationFailed where another was claimed."""
    digest = Digest.of(data)
    if verify and claimed is not None and claimed != digest:
        raise VerificationFailed(f"{where}: digest is {digest}, its reference says {claimed}")
    return digest


def layer_blobs(
    label: str, layers: Sequence[FoundLayer], diff_ids: Sequence[Digest | None]
) -> tuple[LayerBlob, ...]:
    """Raises MalformedImage unless each layer has its diff_id."""
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
    """A 64-digit component cut to 12 digits, as docker shows IDs."""
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
    """An image with a config and layers."""
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
