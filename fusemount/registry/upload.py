"""Law: a blob goes up in one PUT, or in chunks, and goes on from what the registry has of it.

    POST ─202─▶ Location ──▶ PUT Location?digest=… with all bytes ─201─▶ there
                    ▲   broken: GET Location ─204 Range─▶ PATCH chunk … PATCH chunk ─▶ PUT, empty
                    └── 404, or nothing came through: POST again

Every answer names the Location of the next request.  With `upload_chunk` set, or where one PUT is
too large for the registry (413), it is chunks from the start.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from urllib.parse import quote

import httpx
import trio

from fusemount.digest import Digest
from fusemount.errors import ImgmountError, RegistryError, VerificationFailed
from fusemount.registry.authorize import Scopes
from fusemount.registry.connection import Ask, Connection, Refused, Reply
from fusemount.registry.patience import Trouble
from fusemount.registry.replies import uploaded

CHUNK = 32 << 20  # bytes of a PATCH where nobody said how many
CHUNK_MAX = 1 << 40  # of OCI-Chunk-Min-Length; a registry that wants more wants one PUT
NO_BODY_MAX = 64 << 10
WRITTEN = frozenset((200, 201, 202, 204))
TOO_LARGE = 413
OUT_OF_ORDER = 416
DIGEST_INVALID = "DIGEST_INVALID"
CANCEL_SECONDS = 2

Pieces = Callable[[int], AsyncGenerator[bytes, None]]


@dataclass(frozen=True)
class Upload:
    """pieces(offset): the blob's bytes from there on; what: its name in messages."""

    repository: str
    digest: Digest
    size: int
    pieces: Pieces
    what: str


@dataclass(frozen=True)
class _Session:
    """An upload at the registry.

    has: bytes that it has; chunk: length of a PATCH, 0: as few requests as can be;
    resumed: has is what the registry said after a request that broke.
    """

    location: str
    has: int
    chunk: int
    resumed: bool = False


async def upload(connection: Connection, blob: Upload, scopes: Scopes) -> None:
    """Raises RegistryError, Unauthorized, VerificationFailed, and what `pieces` raises."""
    uploader = _Uploader(connection, blob, scopes)
    patience = connection.patience()
    session: _Session | None = None
    chunk = connection.options.upload_chunk
    best = 0
    while True:
        try:
            if session is None:
                session = await uploader.begin(chunk)
            if session.chunk == 0 and session.has == 0:
                await uploader.put(session, blob.size)
                return
            while session.has < blob.size:
                session = await uploader.patch(session)
                if session.has > best:
                    best = session.has
                    patience.refresh()
            await uploader.put(session, 0)
            return
        except _TooLarge:
            await uploader.drop(session)
            chunk, session = CHUNK, None
        except Trouble as trouble:
            await patience.bear(trouble)
            session = await uploader.resumed(session) if session else None
        except BaseException:
            with trio.move_on_after(CANCEL_SECONDS, shield=True):
                await uploader.drop(session)
            raise


class _TooLarge(Exception):
    """The registry, or something before it, refused all of the blob in one PUT."""


async def cancel_upload(connection: Connection, location: str, like: Ask) -> None:
    """So that the registry need not wait for the rest; whether it listens does not matter."""
    ask = replace(like, method="DELETE", url=location, headers={}, body=None, accepted=WRITTEN)
    with suppress(Trouble, ImgmountError):
        await connection.reply_once(ask, NO_BODY_MAX)


class _Uploader:
    def __init__(self, connection: Connection, blob: Upload, scopes: Scopes) -> None:
        self._connection = connection
        self._blob = blob
        self._scopes = scopes
        self._minimum = 0

    async def begin(self, chunk: int) -> _Session:
        ask = self._ask("POST", f"/v2/{self._blob.repository}/blobs/uploads/", WRITTEN)
        reply = await self._connection.reply_once(
            replace(ask, headers={"Content-Length": "0"}), NO_BODY_MAX
        )
        wanted = reply.headers.get("oci-chunk-min-length", "").strip()
        if wanted.isdecimal() and len(wanted) < 19:
            self._minimum = min(int(wanted), CHUNK_MAX)
        return _Session(self._location(reply, None), 0, max(chunk, self._minimum) if chunk else 0)

    async def put(self, session: _Session, length: int) -> None:
        """The end of it, with the last length bytes."""
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
            if session.resumed:  # what it kept of a broken request was not what it said
                raise Trouble(refused) from None
            raise VerificationFailed(str(refused)) from None

    async def patch(self, session: _Session) -> _Session:
        """One chunk more."""
        start = session.has
        length = min(session.chunk or max(CHUNK, self._minimum), self._blob.size - start)
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
            raise Trouble(RegistryError(f"{self._blob.what}: the registry lost count of its bytes"))
        has = uploaded(reply.headers.get("range"))
        has = start + length if has is None or has > start + length else has
        if has <= start and length > 1:
            raise Trouble(RegistryError(f"{self._blob.what}: the registry kept nothing of a chunk"))
        return replace(session, location=self._location(reply, session), has=max(has, start))

    async def resumed(self, session: _Session) -> _Session | None:
        """What the registry has of it; None: it is lost, or too little came through to matter."""
        ask = self._ask("GET", session.location, WRITTEN | {404})
        try:
            reply = await self._connection.reply_once(ask, NO_BODY_MAX)
        except (Trouble, ImgmountError):
            return None
        has = uploaded(reply.headers.get("range"))
        if reply.status == 404 or not has or has > self._blob.size:
            await self.drop(session)
            return None
        return replace(session, location=self._location(reply, session), has=has, resumed=True)

    async def drop(self, session: _Session | None) -> None:
        if session is not None:
            ask = self._ask("DELETE", session.location, WRITTEN)
            await cancel_upload(self._connection, session.location, ask)

    def _ask(self, method: str, url: str, accepted: frozenset[int]) -> Ask:
        return Ask(method, url, self._blob.what, scopes=self._scopes, accepted=accepted)

    def _location(self, reply: Reply, session: _Session | None) -> str:
        location = reply.headers.get("location")
        if location:
            try:
                return str(reply.url.join(location))
            except httpx.InvalidURL:
                location = None
        if session is None:
            raise RegistryError(f"{self._blob.what}: an upload without a Location")
        return session.location

    async def _slice(self, start: int, length: int) -> AsyncGenerator[bytes, None]:
        """Exactly length bytes, or VerificationFailed, which breaks the request off."""
        left = length
        async with aclosing(self._blob.pieces(start)) as pieces:
            async for piece in pieces:
                if len(piece) >= left:
                    yield piece[:left]
                    return
                left -= len(piece)
                yield piece
        raise VerificationFailed(f"{self._blob.what}: its source ended {left} bytes early")
