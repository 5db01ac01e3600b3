"""A registry that refuses, lies or redirects: the right bytes or one clear error."""

from __future__ import annotations

import json
from collections.abc import Callable
from email.utils import formatdate

import pytest
from hostile import Answer, Hostile, Request, error, hostile
from spoiled import (
    ALICE,
    BLOB,
    BLOB_PATH,
    DATA,
    MANIFEST_PATH,
    one_line,
    part,
    ranged,
    refused_blob,
    refused_manifest,
)
from talking import Slept, talk, whole

from fusemount.digest import Digest
from fusemount.errors import (
    ImageNotFound,
    ImgmountError,
    MalformedImage,
    RegistryError,
    Unauthorized,
    UsageError,
    VerificationFailed,
)
from fusemount.image.model import OCI, Descriptor
from fusemount.registry.options import Proxies, RegistryOptions

# Statuses


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_server_that_recovers(server: Hostile, status: int) -> None:
    server.on(f"GET {MANIFEST_PATH}", Answer(status), Answer(status), Answer(200, b"{}"))
    slept = Slept()
    found = talk(server.domain, lambda r: r.manifest("a", "t"), sleep=slept)
    assert (found.data, len(slept.seconds)) == (b"{}", 2)


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, RegistryError), (404, ImageNotFound), (403, Unauthorized), (418, RegistryError)],
)
def test_what_will_not_get_better(server: Hostile, status: int, kind: type[ImgmountError]) -> None:
    message = "no\x1b[2J\n\u202ethis " + "x" * 5000
    server.on(f"GET {MANIFEST_PATH}", error(status, "DENIED", message))
    slept = Slept()
    told = refused_manifest(server, kind, slept=slept)
    assert f"{server.domain}/a:t" in told and r"DENIED: 'no\x1b[2J \u202ethis x" in told
    assert not slept.seconds and len(server.heard) == 1


def test_retry_after_is_waited_for(server: Hostile) -> None:
    busy = error(429, "TOOMANYREQUESTS", "slow down", Retry_After="17")
    server.on(f"GET {MANIFEST_PATH}", busy, Answer(200, b"{}"))
    slept = Slept()
    talk(server.domain, lambda r: r.manifest("a", "t"), sleep=slept)
    assert slept.seconds == [17]


def test_retry_after_as_a_date(server: Hostile) -> None:
    past = formatdate(0, usegmt=True)
    server.on(
        f"GET {MANIFEST_PATH}", Answer(503, headers={"Retry-After": past}), Answer(200, b"{}")
    )
    slept = Slept()
    talk(server.domain, lambda r: r.manifest("a", "t"), sleep=slept)
    assert slept.seconds == [0]


def test_a_wait_that_is_too_long(server: Hostile) -> None:
    server.on(f"GET {MANIFEST_PATH}", error(429, "TOOMANYREQUESTS", "no", Retry_After="3600"))
    slept = Slept()
    told = refused_manifest(server, RegistryError, slept=slept)
    assert told.endswith("TOOMANYREQUESTS: no (asks to wait 3600 s, which is too long)")
    assert not slept.seconds


def test_docker_hubs_limit(server: Hostile) -> None:
    spent = error(
        429,
        "TOOMANYREQUESTS",
        "You have reached your pull rate limit.",
        ratelimit_limit="100;w=21600",
        ratelimit_remaining="0;w=21600",
    )
    server.on(f"GET {MANIFEST_PATH}", spent)
    told = refused_manifest(server, RegistryError)
    assert "(all 100 requests of 6 h are used up; without credentials, since none" in told
    assert len(server.heard) == 1


# Redirects


def test_a_redirect_to_another_host_gets_no_credentials(server: Hostile) -> None:
    with hostile("127.0.0.2") as other:
        server.on(f"GET {BLOB_PATH}", need_basic(Answer(307, headers={
            "Location": f"http://{other.domain}/cdn?x=%2B"})))  # fmt: skip
        other.on("GET /cdn?x=%2B", Answer(200, DATA, cut=100), ranged(lambda r, at: part(at)))
        got = talk(server.domain, lambda r: whole(r, "a", BLOB), credentials=ALICE)
        assert got == DATA
        assert other.heard == ["GET /cdn?x=%2B"] * 2
        assert other.sent("authorization") == [None, None]
        assert server.sent("authorization") == [None, ALICE.basic, ALICE.basic]
        assert server.sent("range")[-1] == other.sent("range")[-1] == f"bytes=100-{len(DATA) - 1}"


def need_basic(answer: Answer) -> Callable[[Request], Answer]:
    refusal = error(401, "UNAUTHORIZED", "who?", WWW_Authenticate='Basic realm="x"')
    return lambda request: answer if "authorization" in request.headers else refusal


def test_a_redirect_within_the_host_keeps_them(server: Hostile) -> None:
    server.on(f"GET {MANIFEST_PATH}", need_basic(Answer(301, headers={"Location": "/there"})))
    server.on("GET /there", need_basic(Answer(200, b"{}")))
    found = talk(server.domain, lambda r: r.manifest("a", "t"), credentials=ALICE)
    assert found.data == b"{}"


@pytest.mark.parametrize(
    ("location", "told"),
    [
        (MANIFEST_PATH, "more than 10 redirects, the last to 127.0.0.1"),
        ("http://192.0.2.1/x", "sent to 192.0.2.1 by plain http, which --tls-verify=false would"),
        ("file:///etc/passwd", "which is neither http nor https"),
        ("http://x:port/", "Invalid URL in location header"),
        ("http://127.0.0.1:65536/", "127.0.0.1:65536/, which is no URL"),
        (f"https://{'a' * 300}/", "which is no URL"),
        ("https://a..b/", "which is no URL"),
        ("mailto:x", "sent to no URL"),
    ],
)
def test_redirects_that_are_not_followed(server: Hostile, location: str, told: str) -> None:
    server.on(f"GET {MANIFEST_PATH}", Answer(302, headers={"Location": location}))
    assert told in refused_manifest(server, RegistryError)


def test_what_another_host_refuses(server: Hostile) -> None:
    with hostile("127.0.0.2") as other:
        target = f"http://{other.domain}/expired"
        server.on(f"GET {BLOB_PATH}", Answer(307, headers={"Location": target}))
        other.on("GET /expired", Answer(403, b"<Error><Code>AccessDenied</Code></Error>"))
        assert f"{other.domain}: 403 Forbidden" in refused_blob(server, RegistryError)


# Documents


@pytest.mark.parametrize("length", ["stated", "endless"])
def test_a_manifest_without_end(server: Hostile, length: str) -> None:
    body = b"x" * (5 << 20)
    endless = Answer(200, body[:1000], {"Connection": "close"}, endless=True)
    server.on(f"GET {MANIFEST_PATH}", Answer(200, body) if length == "stated" else endless)
    told = refused_manifest(server, RegistryError)
    assert "answers with more than 4194304 bytes" in told
    assert len(server.heard) == 1


def test_bytes_that_are_not_what_was_asked_for(server: Hostile) -> None:
    digest = Digest.of(b"wanted")
    server.on(f"GET /v2/a/manifests/{digest}", Answer(200, b"other"))
    told = refused_manifest(server, VerificationFailed, digest)
    assert f"{digest} was asked for, the bytes are {Digest.of(b'other')}" in told


def test_bytes_that_are_not_what_the_registry_says(server: Hostile) -> None:
    headers = {"Docker-Content-Digest": Digest.of(b"else")}
    server.on(f"GET {MANIFEST_PATH}", Answer(200, b"{}", headers))
    assert "was said by the registry" in refused_manifest(server, VerificationFailed)


def test_a_schema_1_manifest(server: Hostile) -> None:
    kind = {"Content-Type": "application/vnd.docker.distribution.manifest.v1+prettyjws"}
    server.on(f"GET {MANIFEST_PATH}", Answer(200, b"{}", kind))
    assert "schema 1" in refused_manifest(server, MalformedImage)


@pytest.mark.parametrize("headers", [{}, {"Docker-Content-Digest": "sha512:00"}])
def test_a_head_that_says_too_little(server: Hostile, headers: dict[str, str]) -> None:
    server.on(f"HEAD {MANIFEST_PATH}", Answer(200, b"", headers))
    server.on(f"GET {MANIFEST_PATH}", Answer(200, b"{}", {"Content-Type": "text/plain"}))
    found = talk(server.domain, lambda r: r.head_manifest("a", "t"))
    assert found == Descriptor("", Digest.of(b"{}"), 2)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"<html>", "not JSON"),
        (b"[]", "expected an object, found a list"),
        (b'{"tags": [1]}', "tags: expected a list of strings, found a number in it"),
        (b"[" * 5000, "nested"),
    ],
)
def test_garbage_for_tags(server: Hostile, body: bytes, told: str) -> None:
    server.on("GET /v2/a/tags/list?n=1000", Answer(200, body))
    with pytest.raises(RegistryError, match=told) as caught:
        talk(server.domain, lambda r: r.tags("a"))
    one_line(caught.value)


def page(tags: list[str], link: str = "") -> Answer:
    headers = {"Link": f'<{link}>; rel="next"'} if link else {}
    return Answer(200, json.dumps({"name": "a", "tags": tags}).encode(), headers)


def test_tags_of_many_pages(server: Hostile) -> None:
    server.on("GET /v2/a/tags/list?n=1000", page(["1", "2"], "/v2/a/tags/list?last=2&n=2"))
    server.on("GET /v2/a/tags/list?last=2&n=2", page(["3"], "list?last=3"))
    server.on("GET /v2/a/tags/list?last=3", Answer(200, b'{"name": "a", "tags": null}'))
    assert talk(server.domain, lambda r: r.tags("a")) == ["1", "2", "3"]


def test_pages_that_go_round(server: Hostile) -> None:
    server.on("GET /v2/a/tags/list?n=1000", page(["1"], "/v2/a/tags/list?n=1000"))
    with pytest.raises(RegistryError, match="a: its pages have no end"):
        talk(server.domain, lambda r: r.tags("a"))


def test_the_referrers_api(server: Hostile) -> None:
    digest = Digest.of(b"subject")
    path = f"/v2/a/referrers/{digest}"

    def index(kind: str) -> bytes:
        entry = {"mediaType": OCI + "manifest.v1+json", "digest": Digest.of(kind.encode()),
                 "size": 1, "artifactType": kind}  # fmt: skip
        return json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()

    more = {"Link": f'<{path}?last=1>; rel="next"'}
    server.on(f"GET {path}", Answer(200, index("x/sig"), more))
    server.on(f"GET {path}?last=1", Answer(200, index("x/sbom")))
    server.on(f"GET {path}?artifactType=x%2Fsbom", Answer(200, index("x/sig"), more))
    both = talk(server.domain, lambda r: r.referrers("a", digest))
    assert [each.artifact_type for each in both] == ["x/sig", "x/sbom"]
    assert talk(server.domain, lambda r: r.referrers("a", digest, "x/sbom")) == both[1:]


# Ways through the network


def test_a_proxy(server: Hostile) -> None:
    server.on("GET http://reg.test/v2/", Answer(200, b"{}"))
    server.on("GET http://reg.test/v2/a/manifests/t", Answer(200, b"{}"))
    options = RegistryOptions(
        retry_delays=(),
        insecure=frozenset(("reg.test",)),
        proxies=Proxies(server.domain, server.domain),
    )
    assert talk("reg.test", lambda r: r.manifest("a", "t"), options).data == b"{}"
    assert server.heard[0] == "CONNECT reg.test:443"


@pytest.mark.parametrize("no_proxy", ["127.0.0.2", "*", "other.test"])
def test_hosts_that_are_reached_without_a_proxy(no_proxy: str) -> None:
    """The last case: this machine's registries never use a proxy, whatever no_proxy has."""
    options = RegistryOptions(
        retry_delays=(), proxies=Proxies("http://127.0.0.1:9", direct=(no_proxy,))
    )
    with hostile("127.0.0.1" if no_proxy == "other.test" else "127.0.0.2") as server:
        server.on(f"GET {MANIFEST_PATH}", Answer(200, b"{}"))
        assert talk(server.domain, lambda r: r.manifest("a", "t"), options).data == b"{}"


def test_a_proxy_that_is_no_url() -> None:
    options = RegistryOptions(proxies=Proxies("http://user:secret@x:port"))
    with pytest.raises(UsageError, match=r"the proxy 'x:port'") as told:
        talk("reg.test", lambda r: r.manifest("a", "t"), options)
    assert "secret" not in one_line(told.value)
