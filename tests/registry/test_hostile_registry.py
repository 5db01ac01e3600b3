"""A registry that breaks, lies, drips, sends us elsewhere: one clear line, or the right bytes."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from email.utils import formatdate

import pytest
from hostile import Answer, Hostile, Request, error, hostile
from talking import QUICK, Slept, described, talk, whole

from fusemount.digest import Digest
from fusemount.errors import (
    ImageNotFound,
    ImgmountError,
    MalformedImage,
    RegistryError,
    Unauthorized,
    VerificationFailed,
)
from fusemount.image.model import OCI, Descriptor
from fusemount.registry.client import Registry
from fusemount.registry.credentials import Credentials
from fusemount.registry.options import RegistryOptions

DATA = random.Random(5).randbytes(3 << 20)
BLOB = described(DATA)
BLOB_PATH = f"/v2/a/blobs/{BLOB.digest}"
MANIFEST_PATH = "/v2/a/manifests/t"
ALICE = Credentials("alice", "secret")
STALLING = RegistryOptions(retry_delays=(0.0,), progress_seconds=0.2, progress_bytes=1000)


@pytest.fixture
def server() -> Iterator[Hostile]:
    with hostile() as found:
        yield found


def ranged(answer: Callable[[Request, int], Answer]) -> Callable[[Request], Answer]:
    """answer(request, first byte asked for)."""

    def called(request: Request) -> Answer:
        text = request.headers.get("range", "bytes=0-")
        return answer(request, int(text.removeprefix("bytes=").partition("-")[0]))

    return called


def part(at: int, end: int = len(DATA), **more: object) -> Answer:
    headers = {"Content-Range": f"bytes {at}-{len(DATA) - 1}/{len(DATA)}"}
    return Answer(206 if at else 200, DATA[at:end], headers, **more)  # type: ignore[arg-type]


def get_blob(
    server: Hostile, options: RegistryOptions = QUICK, slept: Slept | None = None
) -> bytes:
    return talk(server.domain, lambda r: whole(r, "a", BLOB), options, sleep=slept)


def refused_blob(
    server: Hostile, kind: type[ImgmountError], options: RegistryOptions = QUICK
) -> str:
    with pytest.raises(kind) as told:
        get_blob(server, options)
    return one_line(told.value)


def refused_manifest(
    server: Hostile,
    kind: type[ImgmountError],
    reference: str = "t",
    slept: Slept | None = None,
    credentials: Credentials | None = None,
) -> str:
    with pytest.raises(kind) as told:
        talk(server.domain, lambda r: r.manifest("a", reference), QUICK, credentials, slept)
    return one_line(told.value)


def one_line(error: ImgmountError) -> str:
    text = str(error)
    assert text.isprintable() and len(text) < 1000
    return text


# Blobs that come in parts


def test_a_blob_broken_off_again_and_again(server: Hostile) -> None:
    third = len(DATA) // 3 + 1

    def cut(request: Request, at: int) -> Answer:
        return part(at, cut=third)

    server.on(f"GET {BLOB_PATH}", ranged(cut))
    assert get_blob(server) == DATA
    assert server.sent("range") == [
        None,
        f"bytes={third}-{len(DATA) - 1}",
        f"bytes={2 * third}-{len(DATA) - 1}",
    ]


def test_a_server_that_ignores_range(server: Hostile) -> None:
    server.on(f"GET {BLOB_PATH}", Answer(200, DATA, cut=1_000_000), Answer(200, DATA))
    assert get_blob(server) == DATA


def test_an_early_end_that_only_the_connection_marks(server: Hostile) -> None:
    closing = {"Connection": "close"}
    server.on(f"GET {BLOB_PATH}", Answer(200, DATA[:1000], closing), ranged(lambda r, at: part(at)))
    assert get_blob(server) == DATA


def test_no_progress_ends_it(server: Hostile) -> None:
    server.on(f"GET {BLOB_PATH}", ranged(lambda r, at: part(at, cut=1)))
    slept = Slept()
    with pytest.raises(RegistryError, match="broken off") as told:
        get_blob(server, QUICK, slept)
    assert BLOB.digest in one_line(told.value)
    assert len(slept.seconds) == len(QUICK.retry_delays)


def test_a_wait_between_attempts_grows(server: Hostile) -> None:
    server.on(f"GET {BLOB_PATH}", Answer(503))
    slept = Slept()
    with pytest.raises(RegistryError, match="503 Service Unavailable"):
        get_blob(server, RegistryOptions(), slept)
    assert slept.seconds == [0.5, 1, 2, 4, 8]


@pytest.mark.parametrize(
    "content_range",
    ["bytes 0-99/3145728", "bytes 5-3145727/3145728", "bytes 1000-3145728/*", "words", "", None],
)
def test_a_part_that_was_not_asked_for(server: Hostile, content_range: str | None) -> None:
    headers = {} if content_range is None else {"Content-Range": content_range}
    server.on(f"GET {BLOB_PATH}", Answer(200, DATA, cut=1000), Answer(206, DATA[1000:], headers))
    told = refused_blob(server, RegistryError)
    assert "asked for bytes 1000-3145727, answered with Content-Range" in told


def test_a_part_of_another_blob(server: Hostile) -> None:
    other = {"Content-Range": "bytes 1000-3145727/9999999"}
    server.on(f"GET {BLOB_PATH}", Answer(200, DATA, cut=1000), Answer(206, DATA[1000:], other))
    told = refused_blob(server, VerificationFailed)
    assert "9999999 bytes at the registry, 3145728 by its manifest" in told


@pytest.mark.parametrize("size", [0, 1000, len(DATA) - 1, len(DATA) + 1])
def test_another_length(server: Hostile, size: int) -> None:
    server.on(f"GET {BLOB_PATH}", Answer(200, (DATA + b"x")[:size]))
    told = refused_blob(server, VerificationFailed)
    assert f"{size} bytes at the registry, 3145728 by its manifest" in told
    assert len(server.heard) == 1


def chunked(data: bytes) -> Answer:
    body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(data), data)
    return Answer(200, body, {"Transfer-Encoding": "chunked"})


def test_another_length_that_nobody_stated(server: Hostile) -> None:
    server.on(f"GET {BLOB_PATH}", chunked(DATA))
    assert get_blob(server) == DATA
    server.on(f"GET {BLOB_PATH}", chunked(DATA + b"x"))
    assert "more than the 3145728 bytes" in refused_blob(server, VerificationFailed)
    server.on(f"GET {BLOB_PATH}", chunked(DATA[:-1]))
    assert "3145727 bytes at the registry" in refused_blob(server, VerificationFailed)


def test_never_more_than_the_size(server: Hostile) -> None:
    server.on(f"GET {BLOB_PATH}", Answer(200, DATA, {"Connection": "close"}, endless=True))
    got = 0

    async def call(r: Registry) -> None:
        nonlocal got
        async for piece in r.blob("a", BLOB):
            got += len(piece)

    with pytest.raises(VerificationFailed, match="more than the 3145728 bytes"):
        talk(server.domain, call)
    assert got <= len(DATA)


def test_a_slow_drip_of_a_blob(server: Hostile) -> None:
    server.on(f"GET {BLOB_PATH}", ranged(lambda r, at: part(at, drip=0.05)))
    told = refused_blob(server, RegistryError, STALLING)
    assert "bytes in 0.2 s from 127.0.0.1, which is too slow" in told
    assert len(server.heard) == 2


def test_a_slow_drip_of_a_manifest(server: Hostile) -> None:
    server.on(f"GET {MANIFEST_PATH}", Answer(200, b"{}" * 500, drip=0.05))
    with pytest.raises(RegistryError, match="too slow"):
        talk(server.domain, lambda r: r.manifest("a", "t"), STALLING)


def test_a_reader_may_take_its_time(server: Hostile) -> None:
    """What counts is how long we wait for bytes, not how long somebody looks at them."""
    import trio

    server.on(f"GET {BLOB_PATH}", Answer(200, DATA))

    async def call(r: Registry) -> int:
        got = 0
        async for piece in r.blob("a", BLOB):
            got += len(piece)
            if got == len(piece):
                await trio.sleep(2 * STALLING.progress_seconds)
        return got

    assert talk(server.domain, call, STALLING) == len(DATA)


def test_a_blob_of_which_the_registry_knows_only_urls(server: Hostile) -> None:
    elsewhere = f"http://{server.domain}/elsewhere"
    foreign = Descriptor("", BLOB.digest, BLOB.size, urls=("http://192.0.2.1/never", elsewhere))
    server.on("GET /elsewhere", Answer(200, DATA))
    told = ""

    async def call(r: Registry) -> bytes:
        return await whole(r, "a", foreign)

    with pytest.raises(RegistryError) as caught:
        talk(server.domain, call, credentials=ALICE)
    told = one_line(caught.value)
    assert "sent to 192.0.2.1 by plain http" in told
    foreign = Descriptor("", BLOB.digest, BLOB.size, urls=(f"{elsewhere}/not", elsewhere))
    assert talk(server.domain, call, credentials=ALICE) == DATA
    assert server.sent("authorization")[-1] is None


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


@pytest.mark.parametrize("said", [{}, {"Docker-Content-Digest": "sha512:00"}])
def test_a_head_that_says_too_little(server: Hostile, said: dict[str, str]) -> None:
    server.on(f"HEAD {MANIFEST_PATH}", Answer(200, b"", said))
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
