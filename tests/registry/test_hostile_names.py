"""Untrusted names in URLs are checked where the URL is built, whatever their source."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from hostile import Answer, Hostile, error, hostile
from spoiled import ALICE, BLOB, BLOB_PATH, DATA
from talking import QUICK, source, talk, whole

from fusemount.digest import Digest
from fusemount.errors import RegistryError
from fusemount.imagename import ImageName
from fusemount.registry.client import Registry
from fusemount.registry.credentials import Credentials
from fusemount.registry.options import Proxies, RegistryOptions

OUTSIDE = "../../other/manifests/secret"
BAD_TAGS = [OUTSIDE, "t?x=1", "t#x", "a b", "", "-t", "t" * 129, "é", "t\n", "sha256:00", "a%2fb"]
BAD_REPOSITORIES = ["../b", "a/../b", "a?x", "a#", "", "/a", "A", "a//b", "a:pull,push", "a b"]
GONE = Digest.of(b"gone")


def test_tags_that_the_registry_invents(server: Hostile) -> None:
    async def each(registry: Registry) -> None:
        for tag in BAD_TAGS:
            page = Answer(200, json.dumps({"tags": ["ok", tag]}).encode())
            server.on("GET /v2/a/tags/list?n=1000", page)
            with pytest.raises(RegistryError, match="is no tag") as told:
                await registry.tags("a")
            assert str(told.value).isprintable()

    talk(server.domain, each)


CALLS: list[Callable[[Registry, str, str], Awaitable[Any]]] = [
    lambda r, name, tag: r.manifest(name, tag),
    lambda r, name, tag: r.head_manifest(name, tag),
    lambda r, name, tag: r.put_manifest(name, tag, "application/json", b"{}"),
    lambda r, name, tag: r.delete_manifest(name, tag),
]
OF_REPOSITORIES: list[Callable[[Registry, str], Awaitable[Any]]] = [
    lambda r, name: r.tags(name),
    lambda r, name: r.referrers(name, GONE),
    lambda r, name: r.has_blob(name, GONE),
    lambda r, name: r.mount_blob(name, GONE, "a"),
    lambda r, name: r.mount_blob("a", GONE, name),
    lambda r, name: r.upload_blob(name, BLOB.digest, BLOB.size, source(DATA)),
    lambda r, name: whole(r, name, BLOB),
    *(lambda r, name, call=call: call(r, name, "t") for call in CALLS),  # type: ignore[misc]
]


def test_no_request_is_made_of_a_bad_reference(server: Hostile) -> None:
    async def all_of_them(registry: Registry) -> None:
        for call, tag in product(CALLS, BAD_TAGS):
            with pytest.raises(RegistryError, match="is no tag"):
                await call(registry, "a", tag or " ")

    talk(server.domain, all_of_them)
    assert not server.requests


def test_no_request_is_made_of_a_bad_repository(server: Hostile) -> None:
    async def all_of_them(registry: Registry) -> None:
        for call, name in product(OF_REPOSITORIES, BAD_REPOSITORIES):
            with pytest.raises(RegistryError, match="is no repository's name"):
                await call(registry, name)

    talk(server.domain, all_of_them)
    assert not server.requests


def test_a_name_that_exists_is_legal() -> None:
    good = ImageName("localhost:5000", "a/b", "t", GONE)
    for part, values in (
        ("domain", ["", "a b", "a/b", "a@b", "[::1", "h:x"]),
        ("path", BAD_REPOSITORIES),
        ("tag", BAD_TAGS),
        ("digest", ["", "sha256:0", "../x"]),
    ):
        for value in values:
            with pytest.raises(ValueError):
                replace(good, **{part: value})


def test_pages_on_another_host(server: Hostile) -> None:
    with hostile("127.0.0.2") as other:
        for target in (f"http://{other.domain}/v2/x", f"//{other.domain}/v2/x"):
            link = {"Link": f'<{target}>; rel="next"'}
            server.on("GET /v2/a/tags/list?n=1000", Answer(200, b'{"tags": ["t"]}', link))
            with pytest.raises(RegistryError, match=f"next page is said to be at {other.domain}"):
                talk(server.domain, lambda r: r.tags("a"))
        assert not other.requests


def test_a_blobs_urls_get_no_credentials(server: Hostile) -> None:
    """A manifest's url that is a path or has no scheme is not requested from the registry."""
    refusal = error(401, "UNAUTHORIZED", "who?", WWW_Authenticate='Basic realm="r"')
    server.on(f"GET {BLOB_PATH}", refusal, error(404, "BLOB_UNKNOWN", "no"))
    with hostile("127.0.0.2") as other:
        urls = ("/v2/secret", f"//{other.domain}/x", "ftp://h/x", f"http://{other.domain}/blob")
        other.on("GET /blob", Answer(200, DATA))
        blob = replace(BLOB, urls=urls)
        assert talk(server.domain, lambda r: whole(r, "a", blob), credentials=ALICE) == DATA
        assert server.heard == [f"GET {BLOB_PATH}"] * 2
        assert (other.heard, other.sent("authorization")) == (["GET /blob"], [None])


@pytest.mark.parametrize("status", [307, 308])
def test_an_identity_token_is_sent_to_no_third_host(server: Hostile, status: int) -> None:
    """A redirect that keeps the method would also send the body, which has the refresh token."""
    realm = f'Bearer realm="http://{server.domain}/token",service="s"'
    server.on("GET /v2/a/manifests/t", error(401, "UNAUTHORIZED", "who?", WWW_Authenticate=realm))
    with hostile("127.0.0.2") as other:
        there = f"http://{other.domain}/token"
        server.on("POST /token", Answer(status, headers={"Location": there}))
        with pytest.raises(RegistryError, match=r"redirects a POST to 127.0.0.2"):
            talk(server.domain, lambda r: r.manifest("a", "t"),
                 credentials=Credentials(identity_token="secret"))  # fmt: skip
        assert not other.requests


def test_a_registry_elsewhere_cannot_send_us_to_this_machine() -> None:
    with hostile() as proxy, hostile("127.0.0.2") as here:
        options = RegistryOptions(
            retry_delays=(), insecure=frozenset(("far.test",)),
            proxies=Proxies(http=f"http://{proxy.domain}"),
        )  # fmt: skip
        manifest = "GET http://far.test/v2/a/manifests/t"
        proxy.on("GET http://far.test/v2/", Answer(200))
        proxy.on(manifest, Answer(307, headers={"Location": f"http://{here.domain}/admin"}))
        with pytest.raises(RegistryError, match=r"sent to 127.0.0.2.* by plain http"):
            talk("far.test", lambda r: r.manifest("a", "t"), options)
        assert proxy.requests[-1].path == manifest.removeprefix("GET ")
        assert not here.requests


def test_tags_have_a_limit(server: Hostile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fusemount.registry.client.TAGS_MAX", 3)
    link = {"Link": '</v2/a/tags/list?n=1000&last=b>; rel="next"'}
    server.on("GET /v2/a/tags/list?n=1000", Answer(200, b'{"tags": ["a", "b"]}', link))
    server.on("GET /v2/a/tags/list?n=1000&last=b", Answer(200, b'{"tags": ["c", "d"]}'))
    with pytest.raises(RegistryError, match="more than 3 tags, the limit"):
        talk(server.domain, lambda r: r.tags("a"), QUICK)
