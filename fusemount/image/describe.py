"""Law: makes the data that `inspect` and `history` show of an image; the command line prints it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from fusemount.dataclass import dataclass
from fusemount.digest import Digest, chain_ids
from fusemount.image.model import ImageConfig
from fusemount.imagename import parse_name


class StoredLayer(Protocol):
    @property
    def digest(self) -> Digest | None: ...
    @property
    def media_type(self) -> str: ...


@dataclass(frozen=True)
class KeptLayer:
    """A layer's entry in a store.  archive_size: bytes of its tar.  cache_id: the blob that its
    layerdb entry names."""

    archive_size: int
    cache_id: str


class DescribedImage(Protocol):
    """The attributes of an open image that are shown; fusemount.sources.Image has them."""

    @property
    def config(self) -> ImageConfig: ...
    @property
    def image_id(self) -> str: ...
    @property
    def manifest_digest(self) -> Digest | None: ...
    @property
    def repo_tags(self) -> tuple[str, ...]: ...
    @property
    def repo_digests(self) -> tuple[str, ...] | None: ...
    @property
    def layers(self) -> Sequence[StoredLayer]: ...
    @property
    def layer_sizes(self) -> Sequence[int]: ...


@dataclass(frozen=True)
class HistoryRow:
    """One line of `history`.  size: bytes of the layer; of its tar if the image is in a store, else
    as the image stores it (layer_sizes)."""

    created: str
    created_by: str
    size: int
    comment: str
    empty_layer: bool


def docker_inspect(
    image: DescribedImage, kept: Sequence[KeptLayer] | None = None
) -> dict[str, Any]:
    """The object that `docker image inspect` prints in a list, with keys that docker does not have:
    ManifestDigest, ChainIDs, and Layers with digests and sizes of each layer, lowest first.

    kept: the layers of an image in a store. Then Size counts the bytes of their tars, as docker
    does; else the bytes of the layers as the image stores them, compressed or not.
    """
    config = image.config
    document = config.document
    return {
        "Id": image.image_id,
        "RepoTags": list(image.repo_tags),
        "RepoDigests": _repo_digests(image),
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
        return list(image.layer_sizes)
    return [own.archive_size or size for size, own in zip(image.layer_sizes, kept, strict=True)]


def _layers(image: DescribedImage, kept: Sequence[KeptLayer] | None) -> list[dict[str, Any]]:
    """Digest: of the blob, "" if the image names none (a docker-archive, unpacked layers)."""
    diff_ids = image.config.diff_ids
    chain, blobs = chain_ids(diff_ids), image.layers if len(image.layers) == len(diff_ids) else ()
    found = []
    for i, (diff_id, size) in enumerate(zip(diff_ids, image.layer_sizes, strict=False)):
        row: dict[str, Any] = {
            "DiffID": diff_id,
            "ChainID": chain[i],
            "Digest": (blobs[i].digest or "") if blobs else "",
            "MediaType": blobs[i].media_type if blobs else "",
            "Size": size,
        }
        if kept is not None:
            row |= {"ArchiveSize": kept[i].archive_size, "CacheID": kept[i].cache_id}
        found.append(row)
    return found


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _repo_digests(image: DescribedImage) -> list[str]:
    if image.repo_digests is not None:
        return [parse_name(text).familiar for text in image.repo_digests]
    if image.manifest_digest is None:
        return []
    # A name without "/" and ":" ("latest", as skopeo writes) is a tag, and names no repository.
    tags = [tag for tag in image.repo_tags if "/" in tag or ":" in tag]
    repositories = (tag.partition("@")[0] for tag in tags)
    plain = {_without_tag(repository) for repository in repositories}
    return [f"{name}@{image.manifest_digest}" for name in sorted(plain)]


def _without_tag(name: str) -> str:
    head, slash, last = name.rpartition("/")
    return head + slash + last.partition(":")[0]


def history_rows(
    image: DescribedImage, kept: Sequence[KeptLayer] | None = None
) -> list[HistoryRow]:
    """The rows of `history`, newest first, as in `docker history`.

    If there are more steps than layers, the last steps have size 0.  If there are more layers than
    steps, each further layer has a row that says so.
    """
    sizes = _sizes(image, kept)
    rows = []
    for step in image.config.history:
        size = 0 if step.empty_layer or not sizes else sizes.pop(0)
        row = HistoryRow(step.created, step.created_by, size, step.comment, step.empty_layer)
        rows.append(row)
    rows += [HistoryRow("", "", size, "no history of this layer", False) for size in sizes]
    return rows[::-1]
