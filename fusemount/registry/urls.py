"""Law: where a registry sends us becomes a URL, or an error; who is meant by a URL.  No I/O."""

from __future__ import annotations

import httpx

from fusemount.errors import RegistryError
from fusemount.image.fields import shown

PORT_MAX = 65535
Origin = tuple[str, str, int | None]


def joined(base: httpx.URL, target: str, what: str) -> httpx.URL:
    """Where a Location or a Link of base leads.  Raises RegistryError."""
    try:
        url = base.join(target)
    except httpx.InvalidURL:
        url = None
    if url is None or not 0 < (url.port or 80) <= PORT_MAX:
        raise RegistryError(f"{what}: sent to {shown(target)}, which is no URL")
    return url


def next_page(base: httpx.URL, target: str, what: str) -> str:
    """Where a Link of base leads to its next page, on the same host.

    The scheme stays base's: a registry behind a proxy may know another than we speak with it.
    Raises RegistryError for another host: who lists names may not send us on to whom it likes.
    """
    url = joined(base, target, what)
    if host_of(url) != host_of(base):
        raise RegistryError(f"{what}: its next page is said to be at {shown(host_of(url))}")
    return str(url.copy_with(scheme=base.scheme))


def host_of(url: httpx.URL) -> str:
    """`host[:port]`, as names of images have it."""
    return url.netloc.decode("ascii")


def origin_of(url: httpx.URL) -> Origin:
    port = url.port or {"http": 80, "https": 443}.get(url.scheme)
    return url.scheme, url.host, port
