"""Law: chooses one of several images by name, then by platform; else the error lists them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from fusemount.errors import ImageNotFound, PlatformMismatch
from fusemount.image.fields import listed, shown
from fusemount.image.platforms import normalised, rank, this_machine
from fusemount.reference import normalised_name, same_name
from fusemount.settings import ImageOptions
from fusemount.sources.image import Candidate, Image

_SHORT_ID = re.compile(r"(?:sha256:)?([0-9a-f]{6,64})")


def choose(
    candidates: Sequence[Candidate],
    name: str | None,
    options: ImageOptions,
    label: str,
    *,
    given_as: str = "FILE:",
) -> Image:
    """The image that is meant by the name and the platform of the options.

    given_as: the text before an image's name in a reference.  Raises ImageNotFound,
    PlatformMismatch; the message lists the images or platforms.
    """
    if not candidates:
        raise ImageNotFound(f"{label}: there is no image in it")
    found = merged(list(candidates) if name is None else _asked_for(candidates, name))
    if not found:
        raise ImageNotFound(f"{label}: no image {name!r} in it; it holds {_listed(candidates)}")
    if len({frozenset(c.names) for c in found}) > 1:
        raise ImageNotFound(
            f"{label}: which image? "
            + (f"Give one as {given_as}NAME" if name is None else f"{name!r} is several")
            + f": {_listed(found)}"
        )
    if len(found) > 1 and not _several_platforms(found):
        raise ImageNotFound(f"{label}: which image? Give one as {given_as}ID: {_listed(found)}")
    chosen = _for_platform(found, options, label)
    return chosen.open(chosen.names)


def merged(candidates: Sequence[Candidate]) -> list[Candidate]:
    """One candidate for each image, with all the names that its entries have, each once."""
    found: dict[str, tuple[Candidate, dict[str, None]]] = {}
    for candidate in candidates:
        names = found.setdefault(candidate.key, (candidate, {}))[1]
        names.update(dict.fromkeys(candidate.names))
    return [replace(first, names=tuple(names)) for first, names in found.values()]


def _asked_for(candidates: Sequence[Candidate], name: str) -> list[Candidate]:
    """The images with exactly that name; without any, those that the name may mean."""
    full = normalised_name(name)
    exact = [c for c in candidates if full in map(normalised_name, c.names)]
    return exact or [c for c in candidates if answers(c.names, c.ids, name)]


def answers(names: Sequence[str], ids: Sequence[str], name: str) -> bool:
    """Whether `name` may mean an image with these names and IDs.

    It may be one of the names, NAME@DIGEST, or the start of an ID.
    """
    digest = name.partition("@")[2]
    if digest:
        return digest in ids
    if any(name == own or same_name(name, own) for own in names):
        return True
    short = _SHORT_ID.fullmatch(name)
    if short is None:
        return False
    return any(ident.removeprefix("sha256:").startswith(short[1]) for ident in ids)


def _listed(candidates: Sequence[Candidate]) -> str:
    names: list[str] = []
    for candidate in candidates:
        names += candidate.names or (ident[:19] for ident in candidate.ids[:1])
    names = [shown(name) for name in dict.fromkeys(names)]
    return listed(names)


def _several_platforms(candidates: Sequence[Candidate]) -> bool:
    platforms = [c.platform() for c in candidates]
    return len(set(platforms)) == len(platforms)


def _for_platform(found: Sequence[Candidate], options: ImageOptions, label: str) -> Candidate:
    wanted = normalised(options.platform) if options.platform else this_machine()
    platforms = [candidate.platform() for candidate in found]
    ranked = [(rank(p, wanted), i) for i, p in enumerate(platforms)]
    suiting = [(r, i) for r, i in ranked if r is not None]
    if suiting:
        return found[min(suiting)[1]]
    there = ", ".join(sorted({shown(str(p)) for p in platforms}))
    way = "" if options.platform else f"; take another with --platform, as in --platform {there}"
    if len(found) > 1 and way:
        way = "; choose one with --platform"
    raise PlatformMismatch(f"{label}: no image for {wanted} in it, only for {there}{way}")
