"""Reads the body of an answer in pieces.

Law: a body that comes too slowly, or has more bytes than the caller allows, is an error.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress

import httpx
import trio

from fusemount.errors import RegistryError
from fusemount.registry.options import RegistryOptions
from fusemount.registry.retries import AttemptFailed

END_SECONDS = 1


async def body_pieces(
    response: httpx.Response, what: str, options: RegistryOptions
) -> AsyncGenerator[bytes, None]:
    """The body as it came over the wire, not decompressed; closes the response at the end.

    Raises AttemptFailed if the body breaks off or is too slow.  Only the time that this function
    waits for bytes counts as slow, not the time that the caller takes between two pieces.
    """
    source = response.aiter_raw()
    waited, arrived = 0.0, 0
    try:
        while True:
            started = trio.current_time()
            piece = None
            with trio.move_on_after(max(0.0, options.progress_seconds - waited)):
                piece = await _next(source, what)
            if piece is None:
                seconds = f"{arrived} bytes in {options.progress_seconds:g} s"
                slow = f"{what}: {seconds} from {response.url.host}, which is too slow"
                raise AttemptFailed(RegistryError(slow))
            if not piece:
                return
            waited += trio.current_time() - started
            arrived += len(piece)
            if arrived >= options.progress_bytes:
                waited, arrived = 0.0, 0
            yield piece
    finally:
        await _end(response, source)


async def _next(source: AsyncIterator[bytes], what: str) -> bytes:
    """The next piece; b"" at the end of the body."""
    try:
        while not (piece := await anext(source)):
            pass
        return piece
    except StopAsyncIteration:
        return b""
    except httpx.TransportError as error:
        raise AttemptFailed(RegistryError(f"{what}: {broken(error)}")) from error


async def _end(response: httpx.Response, source: AsyncIterator[bytes]) -> None:
    """Closes the response, then reads on until the generators within httpx and httpcore end.

    These generators do not close each other.  Without the reading they would wait for the garbage
    collector, which makes trio complain.  The closed connection ends the reading at once.
    """
    with trio.move_on_after(END_SECONDS, shield=True):
        await response.aclose()
        with suppress(Exception):
            async for _ in source:
                pass


async def whole_body(
    response: httpx.Response, limit: int, what: str, options: RegistryOptions
) -> bytes:
    """The whole body.  Raises RegistryError for more than limit bytes, and AttemptFailed as
    `body_pieces` does."""
    data = bytearray()
    async with aclosing(body_pieces(response, what, options)) as pieces:
        async for piece in pieces:
            data += piece
            if len(data) > limit:
                raise RegistryError(
                    f"{what}: {response.url.host} answers with more than {limit} bytes"
                )
    return bytes(data)


def broken(error: httpx.TransportError) -> str:
    """The reason in words, with httpx' own text if it has one."""
    if isinstance(error, httpx.TimeoutException):
        return "no answer in time"
    words = " ".join(str(error).split())
    if isinstance(error, httpx.RemoteProtocolError):
        return f"broken off, or no HTTP: {words}"
    return words or "the connection broke"
