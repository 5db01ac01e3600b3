"""Law: what `inspect` and `history` show of an image, as data; printing is the command line's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from fusemount.digest import Digest, chain_ids
from fusemount.image.model import ImageConfig


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
    def repo_digests(self) -> tuple[str, ...] | None: ...
    @property
    def layer_sizes(self) -> Sequence[int]: ...


@dataclass(frozen=True)
class HistoryRow:
    """One line of `history`.  size: bytes of the layer as the image stores it (layer_sizes)."""

    created: str
    created_by: str
    size: int
    comment: str
    empty_layer: bool


def docker_inspect(image: DescribedImage) -> dict[str, Any]:
    """The object that `docker image inspect` prints in a list, and ChainIDs.

    Size counts layer bytes as stored in the image, compressed or not.
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
        "Size": sum(image.layer_sizes),
        "Config": document.get("config") or {},
        "RootFS": {"Type": "layers", "Layers": list(config.diff_ids)},
        "ChainIDs": list(chain_ids(config.diff_ids)),
        "Metadata": {"LastTagTime": "0001-01-01T00:00:00Z"},
    }


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _repo_digests(image: DescribedImage) -> list[str]:
    if image.repo_digests is not None:
        return list(image.repo_digests)
    if image.manifest_digest is None:
        return []
    # a name alone ("latest", as skopeo writes) says no repository
    tags = [tag for tag in image.repo_tags if "/" in tag or ":" in tag]
    repositories = (tag.partition("@")[0] for tag in tags)
    plain = {_without_tag(repository) for repository in repositories}
    return [f"{name}@{image.manifest_digest}" for name in sorted(plain)]


def _without_tag(name: str) -> str:
    head, slash, last = name.rpartition("/")
    return head + slash + last.partition(":")[0]


def history_rows(image: DescribedImage) -> list[HistoryRow]:
    """Newest first, as `docker history` has it.

    Where history and layers do not match in number, steps without a layer have size 0 and layers
    without a step have a row that says so.
    """
    sizes = list(image.layer_sizes)
    rows = []
    for step in image.config.history:
        size = 0 if step.empty_layer or not sizes else sizes.pop(0)
        row = HistoryRow(step.created, step.created_by, size, step.comment, step.empty_layer)
        rows.append(row)
    rows += [HistoryRow("", "", size, "no history of this layer", False) for size in sizes]
    return rows[::-1]
