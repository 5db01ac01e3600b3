"""A transport for httpx that reads from sockets in large pieces, and the choice of proxies.

Law: one read returns all bytes that have arrived, up to 1 MiB, with TLS and without it.  Under TLS
it joins the records that have arrived, and waits for no further one.

httpcore reads 64 KiB at a time, and under TLS one record of 16 KiB; each piece then takes some
150 µs through h11, httpcore and httpx.  With reads of 1 MiB a blob comes twice as fast, with less
than half of the CPU time.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import httpcore
import httpx
import trio

from fusemount.errors import UsageError
from fusemount.registry.options import Proxies

READ_BYTES = 1 << 20
RECORD_BYTES = 16 << 10  # the largest TLS record (RFC 8446 section 5.1)
_COUNT: ContextVar[Callable[[int], None] | None] = ContextVar("_COUNT", default=None)
NEVER_BY_PROXY = ("localhost", "127.0.0.1", "[::1]")


class Flooded(httpcore.ReadError):
    """Raised by the function given to counted_reads() when it has seen too many bytes."""


@contextmanager
def counted_reads(count: Callable[[int], None]) -> Iterator[None]:
    """Calls count(0) before and count(n) after each read that this task makes in the block.

    `count` may raise Flooded.  Reads through a proxy are not counted.
    """
    token = _COUNT.set(count)
    try:
        yield
    finally:
        _COUNT.reset(token)


class _Socket(trio.abc.Stream):
    """The stream below TLS.  no_wait: receive_some raises trio.WouldBlock instead of reading.

    SSLStream reads from this stream only when it has used up all earlier bytes.  So when WouldBlock
    comes out of SSLStream.receive_some, no byte is lost.
    """

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self.no_wait = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        if self.no_wait:
            raise trio.WouldBlock
        return await self._stream.receive_some(READ_BYTES)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()


class _Clear(httpcore.AsyncNetworkStream):
    """A connection without TLS."""

    def __init__(self, socket: trio.SocketStream) -> None:
        self._socket = socket
        self._stream: trio.abc.Stream = socket

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        count = _COUNT.get()
        with _as_httpcore(httpcore.ReadError, httpcore.ReadTimeout, timeout):
            if count is None:
                return bytes(await self._receive())
            count(0)
            data = bytes(await self._receive())
            count(len(data))
            return data

    async def _receive(self) -> bytes | bytearray:
        return await self._stream.receive_some(READ_BYTES)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if buffer:
            with _as_httpcore(httpcore.WriteError, httpcore.WriteTimeout, timeout):
                await self._stream.send_all(buffer)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.AsyncNetworkStream:
        stream = _Tls(self._socket, ssl_context, server_hostname)
        try:
            with _as_httpcore(httpcore.ConnectError, httpcore.ConnectTimeout, timeout):
                await stream.shake_hands()
        except BaseException:
            await trio.aclose_forcefully(self._socket)
            raise
        return stream

    def get_extra_info(self, info: str) -> Any:
        # A server that closes an idle connection makes it readable.
        if info == "is_readable":
            return self._socket.socket.is_readable()
        return self._socket.socket if info == "socket" else None


class _Tls(_Clear):
    def __init__(
        self, socket: trio.SocketStream, context: ssl.SSLContext, hostname: str | None
    ) -> None:
        super().__init__(socket)
        self._below = _Socket(socket)
        self._tls = trio.SSLStream(
            self._below, context, server_hostname=hostname, https_compatible=True
        )
        self._stream = self._tls

    async def shake_hands(self) -> None:
        await self._tls.do_handshake()

    async def _receive(self) -> bytes | bytearray:
        data = bytearray(await self._tls.receive_some(RECORD_BYTES))
        self._below.no_wait = True
        try:
            while data and len(data) < READ_BYTES:
                more = await self._tls.receive_some(RECORD_BYTES)
                if not more:
                    break
                data += more
        except (trio.WouldBlock, trio.BrokenResourceError):
            pass  # the next read raises the error again, after the bytes that are good
        finally:
            self._below.no_wait = False
        return data


class _Backend(httpcore.AsyncNetworkBackend):
    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        with _as_httpcore(httpcore.ConnectError, httpcore.ConnectTimeout, timeout):
            return _Clear(await trio.open_tcp_stream(host, port, local_address=local_address))

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)


@contextmanager
def _as_httpcore(
    failed: type[Exception], too_slow: type[Exception], timeout: float | None
) -> Iterator[None]:
    try:
        with trio.fail_after(float("inf") if timeout is None else timeout):
            yield
    except trio.TooSlowError as error:
        raise too_slow(str(error)) from error
    except (trio.BrokenResourceError, trio.ClosedResourceError, OSError) as error:
        raise failed(str(error)) from error


def direct_transport(context: ssl.SSLContext, limits: httpx.Limits) -> httpx.AsyncBaseTransport:
    transport = httpx.AsyncHTTPTransport(verify=context, limits=limits, trust_env=False)
    # httpx has no argument for a network backend.  If it renames `_pool` one day, this line changes
    # nothing, and reads are small again.
    transport._pool = httpcore.AsyncConnectionPool(
        ssl_context=context,
        max_connections=limits.max_connections,
        max_keepalive_connections=limits.max_keepalive_connections,
        keepalive_expiry=limits.keepalive_expiry,
        network_backend=_Backend(),
    )
    return transport


def proxy_mounts(
    proxies: Proxies, context: ssl.SSLContext, limits: httpx.Limits
) -> dict[str, httpx.AsyncBaseTransport | None]:
    """The `mounts` of httpx.AsyncClient: URL pattern → a proxy's transport, or None for no proxy.

    localhost, 127.0.0.1 and ::1 are never reached through a proxy (Go's ProxyFromEnvironment).
    """
    if "*" in proxies.direct or not (proxies.http or proxies.https):
        return {}
    mounts: dict[str, httpx.AsyncBaseTransport | None] = {}
    for scheme, proxy in (("http://", proxies.http), ("https://", proxies.https)):
        if proxy:
            mounts[scheme] = _by_proxy(proxy, context, limits)
    for host in NEVER_BY_PROXY:
        mounts[f"all://{host}"] = None
    for word in proxies.direct:
        name = word.lstrip("*").lstrip(".")
        mounts[f"all://{name}"] = None
        if not word.replace(".", "").isdigit():
            mounts[f"all://*.{name}"] = None
    return mounts


def _by_proxy(
    proxy: str, context: ssl.SSLContext, limits: httpx.Limits
) -> httpx.AsyncBaseTransport:
    url = proxy if "://" in proxy else f"http://{proxy}"
    try:
        return httpx.AsyncHTTPTransport(verify=context, proxy=url, limits=limits, trust_env=False)
    except (httpx.InvalidURL, ValueError, ImportError) as error:
        shown = url.rpartition("@")[2]  # the part before "@" may hold a password
        raise UsageError(f"the proxy {shown!r}: {error}") from None
