"""Law: how bytes come off the wire: httpx' transport, with reads as large as the kernel has bytes.

httpcore reads 64 KiB at a time, and each piece takes some 150 µs through h11, httpcore and httpx;
with reads of 1 MiB a blob comes twice as fast, at less than half the CPU.  TLS hands out one record
(16 KiB) a call whatever is asked, so there nothing would be won.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from typing import Any

import httpcore
import httpx

from fusemount.errors import UsageError
from fusemount.registry.options import Proxies

READ_BYTES = 1 << 20
NEVER_BY_PROXY = ("localhost", "127.0.0.1", "[::1]")


class _WideStream(httpcore.AsyncNetworkStream):
    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return await self._stream.read(max(max_bytes, READ_BYTES), timeout)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.AsyncNetworkStream:
        return await self._stream.start_tls(ssl_context, server_hostname, timeout)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _WideBackend(httpcore.AsyncNetworkBackend):
    def __init__(self) -> None:
        self._backend = httpcore.TrioBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        return _WideStream(
            await self._backend.connect_tcp(host, port, timeout, local_address, socket_options)
        )

    async def sleep(self, seconds: float) -> None:
        await self._backend.sleep(seconds)


def direct_transport(context: ssl.SSLContext, limits: httpx.Limits) -> httpx.AsyncBaseTransport:
    transport = httpx.AsyncHTTPTransport(verify=context, limits=limits, trust_env=False)
    # httpx has no argument for it; where it keeps its pool elsewhere one day, reads are small again
    transport._pool = httpcore.AsyncConnectionPool(
        ssl_context=context,
        max_connections=limits.max_connections,
        max_keepalive_connections=limits.max_keepalive_connections,
        keepalive_expiry=limits.keepalive_expiry,
        network_backend=_WideBackend(),
    )
    return transport


def proxy_mounts(
    proxies: Proxies, context: ssl.SSLContext, limits: httpx.Limits
) -> dict[str, httpx.AsyncBaseTransport | None]:
    """For httpx.AsyncClient: by URL pattern a transport, or None for the direct way.

    localhost, 127.0.0.1 and ::1 are never reached through one (Go's ProxyFromEnvironment).
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
        shown = url.rpartition("@")[2]  # a password may stand before it
        raise UsageError(f"the proxy {shown!r}: {error}") from None
