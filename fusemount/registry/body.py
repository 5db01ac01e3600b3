"""Law: the bytes of an answer arrive in pieces, in time, and not more than are wanted."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress

import httpx
import trio

from fusemount.errors import RegistryError
from fusemount.registry.options import RegistryOptions
from fusemount.registry.retries import Trouble

END_SECONDS = 1


async def body_pieces(
    response: httpx.Response, what: str, options: RegistryOptions
) -> AsyncGenerator[bytes, None]:
    """As they came over the wire; the response is closed at the end.

    Raises Trouble: broken off, or too slow.  Only our waiting counts for slowness: a caller may
    take its time between two pieces.
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
                raise Trouble(RegistryError(slow))
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
    """b"" at the end."""
    try:
        while not (piece := await anext(source)):
            pass
        return piece
    except StopAsyncIteration:
        return b""
    except httpx.TransportError as error:
        raise Trouble(RegistryError(f"{what}: {broken(error)}")) from error


async def _end(response: httpx.Response, source: AsyncIterator[bytes]) -> None:
    """Closes, then reads on: the generators within httpx and httpcore do not close each other.

    Each would wait for the garbage collector, and trio complain; the closed connection ends them.
    """
    with trio.move_on_after(END_SECONDS, shield=True):
        await response.aclose()
        with suppress(Exception):
            async for _ in source:
                pass


async def whole_body(
    response: httpx.Response, limit: int, what: str, options: RegistryOptions
) -> bytes:
    """At most limit bytes.  Raises RegistryError: more; Trouble, as `body_pieces`."""
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
    """Why, in words; httpx' own where it has any."""
    if isinstance(error, httpx.TimeoutException):
        return "no answer in time"
    words = " ".join(str(error).split())
    if isinstance(error, httpx.RemoteProtocolError):
        return f"broken off, or no HTTP: {words}"
    return words or "the connection broke"
