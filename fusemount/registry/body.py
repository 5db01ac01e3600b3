"""Law: the bytes of an answer arrive in pieces, in time, and not more than are wanted."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

import httpx
import trio

from fusemount.errors import RegistryError
from fusemount.registry.options import RegistryOptions
from fusemount.registry.patience import Trouble


async def body_pieces(
    response: httpx.Response, what: str, options: RegistryOptions
) -> AsyncGenerator[bytes, None]:
    """As they came over the wire.  Raises Trouble: broken off, or too slow.

    Only our waiting counts for slowness: a caller may take its time between two pieces.
    """
    source = response.aiter_raw()
    waited, arrived = 0.0, 0
    while True:
        started = trio.current_time()
        piece = None
        with trio.move_on_after(max(0.0, options.progress_seconds - waited)) as scope:
            try:
                piece = await anext(source)
            except StopAsyncIteration:
                return
            except httpx.TransportError as error:
                raise Trouble(RegistryError(f"{what}: {broken(error)}")) from error
        if piece is None or scope.cancelled_caught:
            raise Trouble(
                RegistryError(
                    f"{what}: {arrived} bytes in {options.progress_seconds:g} s from"
                    f" {response.url.host}, which is too slow"
                )
            )
        waited += trio.current_time() - started
        arrived += len(piece)
        if arrived >= options.progress_bytes:
            waited, arrived = 0.0, 0
        yield piece


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
