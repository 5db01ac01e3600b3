"""Law: what `inspect` and `history` show of an image, as data; printing is the command line's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from fusemount.digest import Digest, chain_ids
from fusemount.image.model import ImageConfig
from fusemount.imagename import parse_name


class StoredLayer(Protocol):
    @property
    def size(self) -> int: ...
    @property
    def digest(self) -> Digest | None: ...
    @property
    def media_type(self) -> str: ...


@dataclass(frozen=True)
class KeptLayer:
    """What a store knows of a layer.  archive_size: bytes of its tar.  cache_id: which blob its
    layerdb entry names."""

    archive_size: int
    cache_id: str


class DescribedImage(Protocol):
    """What of an opened image is shown; fusemount.sources.Image has it."""

    @property
    def config(self) -> ImageConfig: ...
    @property
    def image_id(self) -> str: ...
    @property
    def manifest_digest(self) -> Digest | None: ...
    @property
    def repo_tags(self) -> tuple[str, ...]: ...
    @property
    def repo_digests(self) -> tuple[str, ...]: ...
    @property
    def layers(self) -> Sequence[StoredLayer]: ...


@dataclass(frozen=True)
class HistoryRow:
    """One line of `history`.  size: bytes of the layer's tar in a store, elsewhere of the layer as
    the image has it."""

    created: str
    created_by: str
    size: int
    comment: str
    empty_layer: bool


def docker_inspect(
    image: DescribedImage, kept: Sequence[KeptLayer] | None = None
) -> dict[str, Any]:
    """The object that `docker image inspect` prints in a list, and what docker does not say:
    ManifestDigest, ChainIDs, and of each layer, lowest first, its digests and sizes.

    kept: of an image of a store, its layers there; Size counts the bytes of their tars then, as
    docker does, else layer bytes as stored in the image, compressed or not.
    """
    config = image.config
    document = config.document
    return {
        "Id": image.image_id,
        "RepoTags": list(image.repo_tags),
        "RepoDigests": _repo_digests(image) if kept is None else _known_digests(image),
        "Parent": "",
        "Comment": _text(document.get("comment")),
        "Created": config.created,
        "DockerVersion": _text(document.get("docker_version")),
        "Author": config.author,
        "Architecture": config.architecture,
        **({"Variant": config.variant} if config.variant else {}),
        "Os": config.os,
        **({"OsVersion": config.os_version} if config.os_version else {}),
        "Size": sum(_sizes(image, kept)),
        "Config": document.get("config") or {},
        "RootFS": {"Type": "layers", "Layers": list(config.diff_ids)},
        "ManifestDigest": image.manifest_digest or "",
        "ChainIDs": list(chain_ids(config.diff_ids)),
        "Layers": _layers(image, kept),
        "Metadata": {"LastTagTime": "0001-01-01T00:00:00Z"},
    }


def _sizes(image: DescribedImage, kept: Sequence[KeptLayer] | None) -> list[int]:
    if kept is None:
        return [layer.size for layer in image.layers]
    return [own.archive_size or layer.size for layer, own in zip(image.layers, kept, strict=True)]


def _layers(image: DescribedImage, kept: Sequence[KeptLayer] | None) -> list[dict[str, Any]]:
    """Digest: of the blob, "" where the image says none (a docker-archive)."""
    diff_ids = image.config.diff_ids
    chain = chain_ids(diff_ids)
    found = []
    for i, layer in enumerate(image.layers[: len(diff_ids)]):
        row: dict[str, Any] = {
            "DiffID": diff_ids[i],
            "ChainID": chain[i],
            "Digest": layer.digest or "",
            "MediaType": layer.media_type,
            "Size": layer.size,
        }
        if kept is not None:
            row |= {"ArchiveSize": kept[i].archive_size, "CacheID": kept[i].cache_id}
        found.append(row)
    return found


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _repo_digests(image: DescribedImage) -> list[str]:
    if image.manifest_digest is None:
        return []
    # a name alone ("latest", as skopeo writes) says no repository
    tags = [tag for tag in image.repo_tags if "/" in tag or ":" in tag]
    repositories = (tag.partition("@")[0] for tag in tags)
    plain = {_without_tag(repository) for repository in repositories}
    return [f"{name}@{image.manifest_digest}" for name in sorted(plain)]


def _known_digests(image: DescribedImage) -> list[str]:
    """Of an image of a store: where registries were seen to have it, in docker's short form."""
    return [parse_name(text).familiar for text in image.repo_digests]


def _without_tag(name: str) -> str:
    head, slash, last = name.rpartition("/")
    return head + slash + last.partition(":")[0]


def history_rows(
    image: DescribedImage, kept: Sequence[KeptLayer] | None = None
) -> list[HistoryRow]:
    """Newest first, as `docker history` has it.

    Where history and layers do not match in number, steps without a layer have size 0 and layers
    without a step have a row that says so.
    """
    sizes = _sizes(image, kept)
    rows = []
    for step in image.config.history:
        size = 0 if step.empty_layer or not sizes else sizes.pop(0)
        row = HistoryRow(step.created, step.created_by, size, step.comment, step.empty_layer)
        rows.append(row)
    rows += [HistoryRow("", "", size, "no history of this layer", False) for size in sizes]
    return rows[::-1]
