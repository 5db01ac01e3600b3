"""Law: who is reached through a proxy; this machine never is (Go's ProxyFromEnvironment)."""

from __future__ import annotations

import ssl

import httpx

from fusemount.errors import UsageError
from fusemount.registry.options import RegistryOptions

NEVER = ("localhost", "127.0.0.1", "[::1]")


def proxy_mounts(
    options: RegistryOptions, context: ssl.SSLContext, limits: httpx.Limits
) -> dict[str, httpx.AsyncBaseTransport | None]:
    """For httpx.AsyncClient: by URL pattern, a transport, or None for the direct way."""
    if "*" in options.no_proxy or not (options.http_proxy or options.https_proxy):
        return {}
    mounts: dict[str, httpx.AsyncBaseTransport | None] = {}
    for scheme, proxy in (("http://", options.http_proxy), ("https://", options.https_proxy)):
        if proxy:
            mounts[scheme] = _transport(proxy, context, limits)
    for host in NEVER:
        mounts[f"all://{host}"] = None
    for word in options.no_proxy:
        name = word.lstrip("*").lstrip(".")
        mounts[f"all://{name}"] = None
        if not word.replace(".", "").isdigit():
            mounts[f"all://*.{name}"] = None
    return mounts


def _transport(
    proxy: str, context: ssl.SSLContext, limits: httpx.Limits
) -> httpx.AsyncBaseTransport:
    url = proxy if "://" in proxy else f"http://{proxy}"
    try:
        return httpx.AsyncHTTPTransport(verify=context, proxy=url, limits=limits, trust_env=False)
    except (httpx.InvalidURL, ValueError, ImportError) as error:
        raise UsageError(f"the proxy {proxy!r}: {error}") from None
