"""Makes docker's rows from the images of a store, for `ls` and `du`.

Law: an image has one row for each tag, or one row if it has no tag.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from fusemount.cli.ages import duration, human_size
from fusemount.store.listing import NEVER, Listed

NONE = "<none>"
HEADS = {
    "ID": "IMAGE ID",
    "Repository": "REPOSITORY",
    "Tag": "TAG",
    "Digest": "DIGEST",
    "CreatedSince": "CREATED",
    "CreatedAt": "CREATED AT",
    "Size": "SIZE",
    "VirtualSize": "VIRTUAL SIZE",
    "SharedSize": "SHARED SIZE",
    "UniqueSize": "UNIQUE SIZE",
    "Containers": "CONTAINERS",
    "Platform": "PLATFORM",
}


def image_rows(
    listed: Sequence[Listed], *, no_trunc: bool = False, digests: bool = False, dates: bool = True
) -> Iterator[dict[str, str]]:
    """digests: one row for each digest of a tag, as `docker images --digests` prints.

    dates: the rows have CreatedAt, which is slow to make.
    """
    now = datetime.now(UTC)
    for each in listed:
        shared = _fields(each, no_trunc, now)
        if dates:
            shared["CreatedAt"] = created_at(each.created)
        for repository, tag, digest in _names(each, digests):
            yield shared | {"Repository": repository, "Tag": tag, "Digest": digest}


def _fields(listed: Listed, no_trunc: bool, now: datetime) -> dict[str, str]:
    ident, never = listed.image.image_id, listed.created == NEVER
    size = "damaged" if listed.summary.what == "damaged" else human_size(listed.size)
    return {
        "ID": str(ident) if no_trunc else ident.hex[:12],
        "CreatedSince": "N/A" if never else duration(listed.created, now) + " ago",
        "Size": size,
        "VirtualSize": size,
        "SharedSize": "N/A",
        "UniqueSize": "N/A",
        "Containers": "N/A",
        "Platform": ", ".join(listed.platforms),
    }


def created_at(created: datetime) -> str:
    """The time as Go prints a local time, in whole seconds."""
    if created == NEVER:
        return "N/A"
    local = created.replace(microsecond=0).astimezone()
    return local.strftime("%Y-%m-%d %H:%M:%S %z %Z")


def _names(listed: Listed, digests: bool) -> Iterator[tuple[str, str, str]]:
    """(repository, tag, digest) of each row, combined as in docker's formatter/image.go."""
    by_repository: dict[str, list[str]] = {}
    for text in listed.image.repo_digests:
        repository, _, digest = _familiar(text).partition("@")
        by_repository.setdefault(repository, []).append(digest)
    tagged = set()
    for name in listed.image.names:
        tagged.add(name.familiar_repository)
        own = by_repository.get(name.familiar_repository, []) if digests else []
        for digest in own or [NONE]:
            yield name.familiar_repository, name.tag or NONE, digest
    rest = {r: found for r, found in by_repository.items() if r not in tagged}
    for repository, found in rest.items():
        for digest in found if digests else [""]:
            yield repository, NONE, digest or NONE
    if not tagged and not rest:
        yield NONE, NONE, NONE


def _familiar(text: str) -> str:
    from fusemount.imagename import parse_name

    name = parse_name(text)
    return f"{name.familiar_repository}@{name.digest}"


def image_objects(listed: Sequence[Listed]) -> list[dict[str, Any]]:
    """The objects of `ls --json`: each image once, sizes in bytes."""
    return [
        {
            "Id": each.image.image_id,
            "ManifestDigest": each.image.digest,
            "RepoTags": [name.familiar for name in each.image.names],
            "RepoDigests": [_familiar(text) for text in each.image.repo_digests],
            "Created": each.summary.created,
            "Size": each.size,
            "Platforms": list(each.platforms),
            "Labels": dict(each.labels),
            "Kind": each.summary.what,
            **({"Error": each.summary.error} if each.summary.error else {}),
        }
        for each in listed
    ]
