"""Downloads a blob, and goes on at the same byte when the connection breaks.

Law: every byte is given once and in order.  If the iterator ends, it gave exactly `size` bytes; it
never gives more.  This module does not check the digest: the caller does.
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
from fusemount.registry.replies import content_range
from fusemount.registry.retries import AttemptFailed

URLS_MAX = 16  # of the URLs that a manifest gives for one blob, this many are tried
REFRESHING_BYTES = 1 << 20  # after this many new bytes the count of failures starts anew


@dataclass(frozen=True)
class BlobSource:
    """The URLs that are asked for a blob, one after the other until one has it; size: in bytes.

    path: at the registry, asked first and with the registry's credentials.  elsewhere: the URLs
    that the manifest gives, asked in their order and without credentials; URLs that are not http or
    https are skipped.
    """

    path: str
    elsewhere: tuple[str, ...]
    what: str
    digest: Digest
    size: int
    scopes: Scopes


async def download(
    connection: Connection, source: BlobSource, offset: int
) -> AsyncGenerator[bytes, None]:
    """The bytes from offset on.

    Raises RegistryError, Unauthorized, and VerificationFailed if the blob has another length.
    """
    retries = connection.retries()
    at = refreshed_at = offset
    urls = (source.path, *(url for url in source.elsewhere[:URLS_MAX] if _is_absolute(url)))
    url = 0
    while at < source.size:
        try:
            async with aclosing(
                _attempt(connection, source, urls[url], at, own=url == 0)
            ) as pieces:
                async for piece in pieces:
                    at += len(piece)
                    yield piece
        except _NotHere as missing:
            url += 1
            if url == len(urls):
                raise RegistryError(str(missing)) from None
        except AttemptFailed as failed:
            if at >= source.size:
                return
            if at - refreshed_at >= REFRESHING_BYTES:
                retries.reset()
                refreshed_at = at
            await retries.wait_or_raise(failed)


def _is_absolute(url: str) -> bool:
    """A relative URL would be joined to the registry's, and get the registry's credentials."""
    return url.lower().startswith(("https://", "http://"))


class _NotHere(ImgmountError):
    """The answer is a 404: the next URL is tried."""


async def _attempt(
    connection: Connection, source: BlobSource, url: str, at: int, *, own: bool
) -> AsyncGenerator[bytes, None]:
    ask = Ask(
        method="GET",
        url=url,
        what=source.what,
        scopes=source.scopes,
        headers={"Range": f"bytes={at}-{source.size - 1}"} if at else {},
        accepted=frozenset((200, 206)) if at else frozenset((200,)),
        missing=_NotHere,
        authorization=None if own else "",
    )
    response = await connection.open_once(ask)
    try:
        skip = _check_head(source, response, at)
        left = source.size - at
        async with aclosing(body_pieces(response, source.what, connection.options)) as pieces:
            async for piece in pieces:
                if skip >= len(piece):
                    skip -= len(piece)
                    continue
                piece, skip = piece[skip:] if skip else piece, 0
                if len(piece) > left:
                    raise VerificationFailed(
                        f"{source.what}: more than the {source.size} bytes that its manifest says"
                    )
                left -= len(piece)
                yield piece
        if left:
            _ended_early(source, response, left)
    finally:
        await response.aclose()


def _check_head(source: BlobSource, response: httpx.Response, at: int) -> int:
    """The number of bytes to skip before byte `at`.  Raises if the answer cannot be the range that
    was asked for."""
    length = response.headers.get("content-length", "")
    stated = int(length) if length.isdecimal() and len(length) < 19 else None
    if response.status_code == 200:
        if stated is not None and stated != source.size:
            raise _wrong_length(source, stated)
        return at
    span = content_range(response.headers.get("content-range"))
    if span is None or span[0] != at or span[1] >= source.size:
        shown = " ".join(response.headers.get("content-range", "none").split())[:100]
        raise RegistryError(
            f"{source.what}: asked for bytes {at}-{source.size - 1},"
            f" answered with Content-Range {shown!r}"
        )
    if span[2] is not None and span[2] != source.size:
        raise _wrong_length(source, span[2])
    return 0


def _wrong_length(source: BlobSource, length: int) -> VerificationFailed:
    return VerificationFailed(
        f"{source.what}: {length} bytes at the registry, {source.size} by its manifest"
    )


def _ended_early(source: BlobSource, response: httpx.Response, left: int) -> None:
    """Raises for a body that lacks `left` bytes.

    AttemptFailed if another request can bring them: after a partial answer (206), and after a body
    without a stated length, which ends in the same way when the connection breaks.
    """
    framed = "content-length" in response.headers or "transfer-encoding" in response.headers
    if framed and response.status_code == 200:
        raise _wrong_length(source, source.size - left)
    raise AttemptFailed(RegistryError(f"{source.what}: ended {left} bytes early"))
