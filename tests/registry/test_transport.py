"""Reads under TLS, with a server that chooses its records and the end of the connection."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import httpx
import pytest
import trio
import trio.testing
from realregistry import Authority

from fusemount.registry.transport import direct_transport

HEAD = b"HTTP/1.1 200 OK\r\nConnection: close\r\n"
DATA = bytes(range(256)) * 2000
Serve = Callable[[trio.SSLStream[trio.SocketStream]], Awaitable[None]]


@dataclass
class Got:
    pieces: list[bytes]
    error: httpx.TransportError | None = None


def get(authority: Authority, serve: Serve) -> Got:
    """The bytes that one request brings, however it ends."""
    theirs = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    theirs.load_cert_chain(authority.certificate, authority.key)
    ours = ssl.create_default_context(cafile=authority.ca)
    got = Got([])

    async def handle(stream: trio.SocketStream) -> None:
        await serve(trio.SSLStream(stream, theirs, server_side=True, https_compatible=True))

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(trio.serve_tcp, handle, 0)
            url = f"https://127.0.0.1:{listeners[0].socket.getsockname()[1]}/"
            transport = direct_transport(ours, httpx.Limits())
            async with httpx.AsyncClient(transport=transport, trust_env=False) as client:
                try:
                    async with client.stream("GET", url) as response:
                        async for piece in response.aiter_raw():
                            got.pieces.append(piece)
                except httpx.TransportError as error:
                    got.error = error
            nursery.cancel_scope.cancel()

    async def bounded() -> None:
        with trio.fail_after(20):
            await main()

    trio.run(bounded)
    return got


@pytest.mark.parametrize("record", [1000, 16384, len(DATA)])
def test_records_are_put_together(authority: Authority, record: int) -> None:
    async def serve(stream: trio.SSLStream[trio.SocketStream]) -> None:
        await stream.receive_some()
        await stream.send_all(HEAD + b"Content-Length: %d\r\n\r\n" % len(DATA))
        for at in range(0, len(DATA), record):
            await stream.send_all(DATA[at : at + record])
        await stream.receive_some()  # until the client has all bytes

    got = get(authority, serve)
    assert b"".join(got.pieces) == DATA and got.error is None
    assert len(got.pieces) < len(DATA) // 1000


def test_what_has_arrived_is_not_held_back(authority: Authority) -> None:
    """The server sends the rest only after the client can have read the beginning."""

    async def serve(stream: trio.SSLStream[trio.SocketStream]) -> None:
        await stream.receive_some()
        await stream.send_all(HEAD + b"Content-Length: 10\r\n\r\nhello")
        await trio.testing.wait_all_tasks_blocked(0.05)
        await stream.send_all(b"world")
        await stream.receive_some()

    assert get(authority, serve).pieces == [b"hello", b"world"]


@pytest.mark.parametrize("orderly", [True, False])
def test_an_end_comes_behind_the_bytes(authority: Authority, orderly: bool) -> None:
    async def serve(stream: trio.SSLStream[trio.SocketStream]) -> None:
        await stream.receive_some()
        await stream.send_all(HEAD + b"\r\n" + DATA)
        if orderly:
            await stream.unwrap()
        else:
            await stream.transport_stream.aclose()

    got = get(authority, serve)
    assert b"".join(got.pieces) == DATA and got.error is None


def test_garbage_comes_behind_the_bytes(authority: Authority) -> None:
    async def serve(stream: trio.SSLStream[trio.SocketStream]) -> None:
        await stream.receive_some()
        await stream.send_all(HEAD + b"Content-Length: 10\r\n\r\nhello")
        await stream.transport_stream.send_all(b"no record")
        await stream.transport_stream.send_eof()

    got = get(authority, serve)
    assert got.pieces == [b"hello"]
    assert isinstance(got.error, httpx.ReadError)
