"""Uploads a blob in one PUT or in chunks, and resumes from the bytes that the registry has.

    POST ─202─▶ Location ──▶ PUT Location?digest=… with all bytes ─201─▶ there
                    ▲   broken: GET Location ─204 Range─▶ PATCH chunk … PATCH chunk ─▶ PUT, empty
                    └── 404, or nothing came through: POST again

Law: every answer names the Location of the next request.  With `upload_chunk` set, or if one PUT is
too large for the registry (413), the upload uses chunks from the start.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from dataclasses import replace
from urllib.parse import quote

import trio

from fusemount.dataclass import dataclass
from fusemount.digest import Digest
from fusemount.errors import ImgmountError, RegistryError, VerificationFailed
from fusemount.registry.authorize import Scopes
from fusemount.registry.connection import Ask, Connection, Refused, Reply
from fusemount.registry.replies import uploaded
from fusemount.registry.retries import AttemptFailed
from fusemount.registry.urls import joined

CHUNK = 32 << 20  # bytes of a PATCH if neither the options nor the registry give a size
CHUNK_MAX = 1 << 40  # limit of OCI-Chunk-Min-Length: a smaller blob is one chunk then
NO_BODY_MAX = 64 << 10
WRITTEN = frozenset((200, 201, 202, 204))
TOO_LARGE = 413
OUT_OF_ORDER = 416
DIGEST_INVALID = "DIGEST_INVALID"
CANCEL_SECONDS = 2
WRITE_BYTES = 256 << 10  # of one write; a slow line must send them before the write times out

Pieces = Callable[[int], AsyncGenerator[bytes, None]]


@dataclass(frozen=True)
class Upload:
    """begin: the registry's path that starts uploads of the repository.  pieces(offset): the blob's
    bytes from offset on.  what: the blob's name in messages."""

    begin: str
    digest: Digest
    size: int
    pieces: Pieces
    what: str


@dataclass(frozen=True)
class _Session:
    """An upload that the registry has begun.

    has: bytes that the registry has.  chunk: bytes of one PATCH; 0: as few requests as possible.
    resumed: `has` comes from the registry's answer after a broken request.
    """

    location: str
    has: int
    chunk: int
    resumed: bool = False


async def upload(connection: Connection, blob: Upload, scopes: Scopes) -> None:
    """Raises RegistryError, Unauthorized, VerificationFailed, and every error of `pieces`."""
    uploader = _Uploader(connection, blob, scopes)
    try:
        await uploader.run()
    except BaseException:
        with trio.move_on_after(CANCEL_SECONDS, shield=True):
            await uploader.drop()
        raise


class _TooLarge(Exception):
    """The registry or a proxy before it refused the whole blob in one PUT."""


class _Spoiled(AttemptFailed):
    """The registry kept wrong bytes of a broken request: the upload must start anew."""


async def cancel_upload(connection: Connection, location: str, like: Ask) -> None:
    """Tells the registry that no more bytes come.  A failure does not matter."""
    ask = replace(like, method="DELETE", url=location, headers={}, body=None, accepted=WRITTEN)
    with suppress(AttemptFailed, ImgmountError):
        await connection.reply_once(ask, NO_BODY_MAX)


class _Uploader:
    def __init__(self, connection: Connection, blob: Upload, scopes: Scopes) -> None:
        self._connection = connection
        self._blob = blob
        self._scopes = scopes
        self._minimum = 0
        self._session: _Session | None = None

    async def run(self) -> None:
        retries = self._connection.retries()
        chunk = self._connection.options.upload_chunk
        best = 0
        while True:
            try:
                session = self._session = self._session or await self.begin(chunk)
                if session.chunk == 0 and session.has == 0:
                    return await self.put(session, self._blob.size)
                while session.has < self._blob.size:
                    had, sent = session.has, self._length(session)
                    session = self._session = await self.patch(session)
                    # A registry that keeps little of each chunk would make the upload endless.
                    if 2 * (session.has - had) < sent:
                        kept = f"the registry kept {session.has - had} of {sent} bytes"
                        await retries.wait_or_raise(
                            AttemptFailed(RegistryError(f"{self._blob.what}: {kept}"))
                        )
                    elif session.has > best:
                        best = session.has
                        retries.reset()
                return await self.put(session, 0)
            except _TooLarge:
                await self.drop()
                chunk = CHUNK
            except _Spoiled as spoiled:
                await retries.wait_or_raise(spoiled)
                await self.drop()
            except AttemptFailed as failed:
                await retries.wait_or_raise(failed)
                if self._session is not None:
                    await self.resume(self._session)

    async def begin(self, chunk: int) -> _Session:
        ask = self._ask("POST", self._blob.begin, WRITTEN)
        reply = await self._connection.reply_once(
            replace(ask, headers={"Content-Length": "0"}), NO_BODY_MAX
        )
        wanted = reply.headers.get("oci-chunk-min-length", "").strip()
        if wanted.isdecimal() and len(wanted) < 19:
            self._minimum = min(int(wanted), CHUNK_MAX)
        return _Session(self._location(reply, None), 0, max(chunk, self._minimum) if chunk else 0)

    async def put(self, session: _Session, length: int) -> None:
        """Ends the upload; length: all bytes of the blob, or 0 if the registry has them."""
        joint = "&" if "?" in session.location else "?"
        url = f"{session.location}{joint}digest={quote(self._blob.digest, safe='')}"
        headers = {"Content-Length": str(length), "Content-Type": "application/octet-stream"}
        ask = self._ask("PUT", url, frozenset((200, 201, 204)))
        body = (lambda: self._slice(0, length)) if length else b""
        try:
            await self._connection.reply_once(replace(ask, headers=headers, body=body), NO_BODY_MAX)
        except Refused as refused:
            if refused.status == TOO_LARGE and length:
                raise _TooLarge from None
            if DIGEST_INVALID not in str(refused):
                raise
            if session.resumed:
                raise _Spoiled(refused) from None
            raise VerificationFailed(str(refused)) from None

    def _length(self, session: _Session) -> int:
        """The length of the next chunk."""
        chunk = session.chunk or max(CHUNK, self._minimum)
        return min(chunk, self._blob.size - session.has)

    async def patch(self, session: _Session) -> _Session:
        """Sends the next chunk."""
        start, length = session.has, self._length(session)
        headers = {
            "Content-Length": str(length),
            "Content-Type": "application/octet-stream",
            "Content-Range": f"{start}-{start + length - 1}",
        }
        ask = self._ask("PATCH", session.location, WRITTEN | {OUT_OF_ORDER})
        reply = await self._connection.reply_once(
            replace(ask, headers=headers, body=lambda: self._slice(start, length)), NO_BODY_MAX
        )
        if reply.status == OUT_OF_ORDER:
            raise AttemptFailed(
                RegistryError(f"{self._blob.what}: the registry lost count of its bytes")
            )
        has = uploaded(reply.headers.get("range"))
        has = start + length if has is None or has > start + length else has
        if start + length == 1:
            has = 1  # for one byte `0-0` is right, which uploaded() takes for none
        if has <= start:
            raise AttemptFailed(
                RegistryError(f"{self._blob.what}: the registry kept nothing of a chunk")
            )
        return replace(session, location=self._location(reply, session), has=has)

    async def resume(self, session: _Session) -> None:
        """Asks the registry how much it has, and goes on from there.

        Drops the upload if the registry has lost it or has no bytes of it.
        """
        ask = self._ask("GET", session.location, WRITTEN | {404})
        try:
            reply = await self._connection.reply_once(ask, NO_BODY_MAX)
        except (AttemptFailed, ImgmountError):
            self._session = None
            return
        has = uploaded(reply.headers.get("range"))
        if reply.status == 404 or not has or has > self._blob.size:
            await self.drop()
            return
        location = self._location(reply, session)
        self._session = replace(session, location=location, has=has, resumed=True)

    async def drop(self) -> None:
        if self._session is not None:
            location, self._session = self._session.location, None
            ask = self._ask("DELETE", location, WRITTEN)
            await cancel_upload(self._connection, location, ask)

    def _ask(self, method: str, url: str, accepted: frozenset[int]) -> Ask:
        return Ask(method, url, self._blob.what, scopes=self._scopes, accepted=accepted)

    def _location(self, reply: Reply, session: _Session | None) -> str:
        location = reply.headers.get("location")
        if location:
            return str(joined(reply.url, location, self._blob.what))
        if session is None:
            raise RegistryError(f"{self._blob.what}: an upload without a Location")
        return session.location

    async def _slice(self, start: int, length: int) -> AsyncGenerator[bytes, None]:
        """Exactly length bytes from start on.

        Raises VerificationFailed if the source has fewer; the error breaks the request off.
        """
        left = length
        async with aclosing(self._blob.pieces(start)) as pieces:
            async for piece in pieces:
                for at in range(0, min(len(piece), left), WRITE_BYTES):
                    yield piece[at : min(at + WRITE_BYTES, left)]
                left -= len(piece)
                if left <= 0:
                    return
        raise VerificationFailed(f"{self._blob.what}: its source ended {left} bytes early")
