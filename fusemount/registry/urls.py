"""Checks the URLs that a registry sends in Location and Link headers.  Law: no I/O."""

from __future__ import annotations

import httpx

from fusemount.errors import RegistryError
from fusemount.image.fields import shown

PORT_MAX = 65535
Origin = tuple[str, str, int | None]


def joined(base: httpx.URL, target: str, what: str) -> httpx.URL:
    """The URL of a Location or a Link in an answer from base.  Raises RegistryError."""
    url: httpx.URL | None
    try:
        url = base.join(target)
        httpx.Request("GET", url)  # raises what sending would raise
        url.host.encode("idna")
    except (httpx.InvalidURL, ValueError):  # UnicodeError is one
        url = None
    if url is None or not 0 < (url.port or 80) <= PORT_MAX:
        raise RegistryError(f"{what}: sent to {shown(target)}, which is no URL")
    return url


def next_page(base: httpx.URL, target: str, what: str) -> str:
    """The URL of the next page, from a Link in an answer from base.

    The scheme stays base's, because a registry behind a proxy may write another one than the client
    uses.  Raises RegistryError for another host: a list of names may not lead to a third server.
    """
    url = joined(base, target, what)
    if host_of(url) != host_of(base):
        raise RegistryError(f"{what}: its next page is said to be at {shown(host_of(url))}")
    return str(url.copy_with(scheme=base.scheme))


def host_of(url: httpx.URL) -> str:
    """`host[:port]`, in the form that image names have."""
    return url.netloc.decode("ascii")


def origin_of(url: httpx.URL) -> Origin:
    port = url.port or {"http": 80, "https": 443}.get(url.scheme)
    return url.scheme, url.host, port
