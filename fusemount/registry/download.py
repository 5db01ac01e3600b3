"""Law: a blob's bytes, each once and in order, however often the connection breaks.

The caller hashes.  What is certain here: exactly `size` bytes were given if the iterator ends, and
never more; they are of the blob asked for if the registry is honest.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

import httpx

from fusemount.dataclass import dataclass
from fusemount.digest import Digest
from fusemount.errors import ImgmountError, RegistryError, VerificationFailed
from fusemount.registry.authorize import Scopes
from fusemount.registry.body import body_pieces
from fusemount.registry.connection import Ask, Connection
from fusemount.registry.retries import Trouble
from fusemount.registry.replies import content_range

URLS_MAX = 16  # of a manifest's for one blob that are tried
REFRESHING_BYTES = 1 << 20  # an attempt that brought so much makes up for the failures before it


@dataclass(frozen=True)
class BlobPlace:
    """Where a blob is asked for until somebody has it; size: in bytes.

    path: of the registry, with its credentials.  elsewhere: URLs that the manifest gives, which are
    asked in their order and without credentials; what is no http(s) URL is passed over.
    """

    path: str
    elsewhere: tuple[str, ...]
    what: str
    digest: Digest
    size: int
    scopes: Scopes


async def download(
    connection: Connection, place: BlobPlace, offset: int
) -> AsyncGenerator[bytes, None]:
    """From offset on.  Raises RegistryError, Unauthorized; VerificationFailed: another length."""
    patience = connection.patience()
    at = refreshed_at = offset
    urls = (place.path, *(url for url in place.elsewhere[:URLS_MAX] if _is_absolute(url)))
    url = 0
    while at < place.size:
        try:
            async with aclosing(_attempt(connection, place, urls[url], at, own=url == 0)) as pieces:
                async for piece in pieces:
                    at += len(piece)
                    yield piece
        except _NotHere as missing:
            url += 1
            if url == len(urls):
                raise RegistryError(str(missing)) from None
        except Trouble as trouble:
            if at >= place.size:
                return
            if at - refreshed_at >= REFRESHING_BYTES:
                patience.refresh()
                refreshed_at = at
            await patience.bear(trouble)


def _is_absolute(url: str) -> bool:
    """A path alone would be asked of the registry, with its credentials."""
    return url.lower().startswith(("https://", "http://"))


class _NotHere(ImgmountError):
    """A 404."""


async def _attempt(
    connection: Connection, place: BlobPlace, url: str, at: int, *, own: bool
) -> AsyncGenerator[bytes, None]:
    ask = Ask(
        method="GET",
        url=url,
        what=place.what,
        scopes=place.scopes,
        headers={"Range": f"bytes={at}-{place.size - 1}"} if at else {},
        accepted=frozenset((200, 206)) if at else frozenset((200,)),
        missing=_NotHere,
        authorization=None if own else "",
    )
    response = await connection.open_once(ask)
    try:
        skip = _check_head(place, response, at)
        left = place.size - at
        async with aclosing(body_pieces(response, place.what, connection.options)) as pieces:
            async for piece in pieces:
                if skip >= len(piece):
                    skip -= len(piece)
                    continue
                piece, skip = piece[skip:] if skip else piece, 0
                if len(piece) > left:
                    raise VerificationFailed(
                        f"{place.what}: more than the {place.size} bytes that its manifest says"
                    )
                left -= len(piece)
                yield piece
        if left:
            _ended_early(place, response, left)
    finally:
        await response.aclose()


def _check_head(place: BlobPlace, response: httpx.Response, at: int) -> int:
    """How many bytes to pass over.  Raises where the answer cannot be what was asked for."""
    length = response.headers.get("content-length", "")
    stated = int(length) if length.isdecimal() and len(length) < 19 else None
    if response.status_code == 200:
        if stated is not None and stated != place.size:
            raise _wrong_length(place, stated)
        return at
    span = content_range(response.headers.get("content-range"))
    if span is None or span[0] != at or span[1] >= place.size:
        shown = " ".join(response.headers.get("content-range", "none").split())[:100]
        raise RegistryError(
            f"{place.what}: asked for bytes {at}-{place.size - 1},"
            f" answered with Content-Range {shown!r}"
        )
    if span[2] is not None and span[2] != place.size:
        raise _wrong_length(place, span[2])
    return 0


def _wrong_length(place: BlobPlace, length: int) -> VerificationFailed:
    return VerificationFailed(
        f"{place.what}: {length} bytes at the registry, {place.size} by its manifest"
    )


def _ended_early(place: BlobPlace, response: httpx.Response, left: int) -> None:
    """A short range may be followed by another; the end of the connection is no end of a body."""
    framed = "content-length" in response.headers or "transfer-encoding" in response.headers
    if framed and response.status_code == 200:
        raise _wrong_length(place, place.size - left)
    raise Trouble(RegistryError(f"{place.what}: ended {left} bytes early"))
