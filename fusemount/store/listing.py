"""Law: lists the images of a store, newest first, filtered as docker filters them.

reference      a glob on NAME or NAME:TAG as docker shows them (path.Match: `*` stops at a slash)
dangling       true: images without a tag; false: images with a tag or a NAME@DIGEST
label          the image has this label, or this value of it
before, since  created before or after that time
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from datetime import UTC, datetime

from fusemount.dataclass import dataclass
from fusemount.digest import Digest
from fusemount.errors import UsageError
from fusemount.imagename import ImageName
from fusemount.store.catalog import Entry
from fusemount.store.store import Store, StoredImage
from fusemount.store.summary import LayerRow, Summaries, Summary

NEVER = datetime.min.replace(tzinfo=UTC)  # for a config without a time of creation


@dataclass(frozen=True)
class Listed:
    """An image and what a list shows of it.

    size: bytes of its layers' tars; for an index, of all platforms in the store, each layer once.
    platforms: for which the store has the image.
    """

    image: StoredImage
    created: datetime
    size: int
    platforms: tuple[str, ...]

    @property
    def summary(self) -> Summary:
        return self.image.summary

    @property
    def labels(self) -> Mapping[str, str]:
        return self.summary.labels or {}


@dataclass(frozen=True)
class Selection:
    """Which images are listed; an empty selection means all.

    labels, without: (key, value); value None means any.
    """

    references: tuple[str, ...] = ()
    dangling: bool | None = None
    labels: tuple[tuple[str, str | None], ...] = ()
    without: tuple[tuple[str, str | None], ...] = ()
    before: datetime | None = None
    since: datetime | None = None
    until: datetime | None = None
    globs: tuple[re.Pattern[str], ...] = field(init=False, default=())

    def __post_init__(self) -> None:
        object.__setattr__(self, "globs", tuple(map(glob, self.references)))

    def narrowed(self, listed: Listed) -> Listed | None:
        """With only the names that match; None if the image is not selected."""
        image = listed.image
        nameless = not image.names
        if self.dangling is True and not nameless:
            return None
        if self.dangling is False and nameless and not image.repo_digests:
            return None
        if not all(_has(listed.labels, *label) for label in self.labels):
            return None
        if any(_has(listed.labels, *label) for label in self.without):
            return None
        if self.before is not None and not listed.created < self.before:
            return None
        if self.since is not None and not listed.created > self.since:
            return None
        if self.until is not None and listed.created > self.until:
            return None
        return self._called(listed) if self.globs else listed

    def _called(self, listed: Listed) -> Listed | None:
        entries: list[Entry] = []
        for entry in listed.image.entries:
            digests = tuple(d for d in entry.repo_digests if self._matches(_familiar(d)))
            name = entry.name if entry.name and self._matches(_both(entry.name)) else None
            if name is not None or digests:
                entries.append(replace(entry, name=name, repo_digests=digests))
        if not entries:
            return None
        return replace(listed, image=replace(listed.image, entries=tuple(entries)))

    def _matches(self, texts: Sequence[str]) -> bool:
        return any(pattern.fullmatch(text) for pattern in self.globs for text in texts)


def listing(store: Store, selection: Selection | None = None, *, artifacts: bool = False
            ) -> list[Listed]:  # fmt: skip
    """Newest first.  artifacts: signatures and other artifacts are listed, too.

    Raises MalformedImage, ImgmountError if index.json itself cannot be read.
    """
    _, images, summaries = store.read()
    found = []
    for image in images:
        if artifacts or image.summary.what != "artifact":
            listed: Listed | None = listed_of(image, summaries)
            if selection is not None and listed is not None:
                listed = selection.narrowed(listed)
            if listed is not None:
                found.append(listed)
    found.sort(key=lambda each: each.created, reverse=True)
    return found


def listed_of(image: StoredImage, summaries: Summaries) -> Listed:
    summary = image.summary
    platforms = tuple(text for text in summary.platform.split(", ") if text)
    if summary.what != "index":
        return Listed(image, moment(summary.created), summary.size, platforms)
    layers: dict[Digest, LayerRow] = {}
    for _, below in summaries.reached(image.digest, image.descriptor.media_type):
        layers |= {layer.digest: layer for layer in below.layers}
    size = sum(layer.archive_size or layer.size for layer in layers.values())
    return Listed(image, moment(summary.created), size, platforms)


def moment(created: str) -> datetime:
    """The time of an RFC 3339 text; NEVER if the text is not such a time."""
    try:
        found = datetime.fromisoformat(created)
        return found.astimezone(UTC) if found.tzinfo is not None else found.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return NEVER


def _has(labels: Mapping[str, str], key: str, value: str | None) -> bool:
    return key in labels and (value is None or labels[key] == value)


def _both(name: ImageName) -> Sequence[str]:
    return (name.familiar, name.familiar_repository)


def _familiar(repo_digest: str) -> Sequence[str]:
    from fusemount.imagename import parse_name

    try:
        return _both(parse_name(repo_digest))
    except UsageError:
        return ()


def glob(pattern: str) -> re.Pattern[str]:
    """The regular expression for a pattern of Go's path.Match.  Raises UsageError."""
    found, at = "", 0
    while at < len(pattern):
        c = pattern[at]
        at += 1
        if c == "*":
            found += "[^/]*"
        elif c == "?":
            found += "[^/]"
        elif c == "[":
            end = pattern.find("]", at + 1)
            if end < 0:
                raise UsageError(f"{pattern!r}: no ] closes the [")
            found += "[" + pattern[at:end].replace("[", r"\[") + "]"
            at = end + 1
        elif c == "\\" and at < len(pattern):
            found += re.escape(pattern[at])
            at += 1
        else:
            found += re.escape(c)
    try:
        return re.compile(found)
    except re.error as error:
        raise UsageError(f"{pattern!r}: {error}") from None
