"""Challenges and token servers that fail or lie: a password goes only to its own server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest
import trio
from hostile import Answer, Hostile, Request, error, hostile
from talking import QUICK, Slept, described, source, talk
from trio.testing import MockClock

from fusemount.errors import ImgmountError, RegistryError, Unauthorized
from fusemount.registry.client import Registry
from fusemount.registry.credentials import Credentials

ALICE = Credentials("alice", "secret")
MANIFEST = "GET /v2/a/manifests/t"
TOKEN = "GET /token?service=s&scope=repository%3Aa%3Apull"


@pytest.fixture
def authority() -> Iterator[Hostile]:
    with hostile("127.0.0.2") as found:
        yield found


def challenge(authority: Hostile, rest: str = 'service="s",scope="repository:a:pull"') -> Answer:
    realm = f'Bearer realm="http://{authority.domain}/token",{rest}'
    return error(401, "UNAUTHORIZED", "who?", WWW_Authenticate=realm)


def wants(token: str, refusal: Answer, answer: Answer) -> Callable[[Request], Answer]:
    return lambda r: answer if r.headers.get("authorization") == f"Bearer {token}" else refusal


def granted(token: str, **more: object) -> Answer:
    return Answer(200, json.dumps({"token": token, **more}).encode())


def refused(server: Hostile, kind: type[ImgmountError], **more: object) -> str:
    with pytest.raises(kind) as told:
        talk(server.domain, lambda r: r.manifest("a", "t"), QUICK, **more)  # type: ignore[arg-type]
    text = str(told.value)
    assert text.isprintable() and "secret" not in text
    return text


def test_a_token_is_renewed_at_a_401(server: Hostile, authority: Hostile) -> None:
    authority.on(TOKEN, granted("one"), granted("two"))
    refusal = challenge(authority)
    ok = Answer(200, b"{}")
    server.on(MANIFEST, refusal, wants("one", refusal, ok), wants("two", refusal, ok))

    async def call(r: Registry) -> None:
        await r.manifest("a", "t")
        await r.manifest("a", "t")

    talk(server.domain, call)
    assert server.sent("authorization") == [None, "Bearer one", "Bearer one", "Bearer two"]


def test_a_token_is_renewed_before_it_expires(server: Hostile, authority: Hostile) -> None:
    authority.on(TOKEN, granted("one", expires_in=40))
    server.on(MANIFEST, challenge(authority), Answer(200, b"{}"))
    clock = MockClock()  # it stands still until the test moves it

    async def call(r: Registry) -> list[int]:
        asked = []
        for seconds in (0, 25, 10):
            clock.jump(seconds)
            await r.manifest("a", "t")
            asked.append(len(authority.heard))
        return asked

    assert talk(server.domain, call, clock=clock) == [1, 1, 2]


def test_the_token_server_alone_gets_the_password(server: Hostile, authority: Hostile) -> None:
    url = TOKEN + "&account=alice"
    authority.on(url, Answer(200, b'{"access_token": "one"}'))
    server.on(MANIFEST, wants("one", challenge(authority), Answer(200, b"{}")))
    talk(server.domain, lambda r: r.manifest("a", "t"), credentials=ALICE)
    assert authority.sent("authorization") == [ALICE.basic]
    assert server.sent("authorization") == [None, "Bearer one"]


def test_a_token_server_that_redirects_loses_the_password(
    server: Hostile, authority: Hostile
) -> None:
    there = f"http://{server.domain}/elsewhere"
    authority.on(TOKEN + "&account=alice", Answer(302, headers={"Location": there}))
    server.on("GET /elsewhere", granted("one"))
    server.on(MANIFEST, wants("one", challenge(authority), Answer(200, b"{}")))
    talk(server.domain, lambda r: r.manifest("a", "t"), credentials=ALICE)
    assert server.sent("authorization") == [None, None, "Bearer one"]


def test_an_identity_token_where_oauth_is_not_known(server: Hostile, authority: Hostile) -> None:
    both = Credentials("alice", "secret", "identity")
    authority.on("POST /token", error(404, "UNKNOWN", "no"))
    authority.on(TOKEN + "&account=alice", granted("one"))
    server.on(MANIFEST, wants("one", challenge(authority), Answer(200, b"{}")))
    talk(server.domain, lambda r: r.manifest("a", "t"), credentials=both)
    assert b"refresh_token=identity" in authority.requests[0].body
    assert authority.sent("authorization") == [None, both.basic]


def test_a_token_server_that_recovers(server: Hostile, authority: Hostile) -> None:
    authority.on(TOKEN, Answer(503, headers={"Retry-After": "3"}), granted("one"))
    server.on(MANIFEST, wants("one", challenge(authority), Answer(200, b"{}")))
    slept = Slept()
    talk(server.domain, lambda r: r.manifest("a", "t"), sleep=slept)
    assert slept.seconds == [3]


@pytest.mark.parametrize(
    ("answer", "kind", "told"),
    [
        (Answer(401, b'{"details": "locked out"}'), Unauthorized, "locked out"),
        (Answer(403), Unauthorized, "refuses us: no credentials are known for 127.0.0.1"),
        (Answer(405), RegistryError, "answers 405"),
        (Answer(418), RegistryError, "418 I'm a Teapot"),
        (Answer(200, b"<html>"), RegistryError, "not JSON"),
        (Answer(200, b"{}"), RegistryError, "no token in its answer"),
        (Answer(200, b'{"token": "a\\r\\nX: y"}'), RegistryError, "no token in its answer"),
        (Answer(200, b'{"token": 7}'), RegistryError, "expected a string"),
        (Answer(200, b"x" * 2_000_000), RegistryError, "more than 1048576 bytes"),
    ],
)
def test_what_a_token_server_may_say(
    server: Hostile, authority: Hostile, answer: Answer, kind: type[ImgmountError], told: str
) -> None:
    authority.on(TOKEN, answer)
    server.on(MANIFEST, challenge(authority))
    assert told in refused(server, kind)


@pytest.mark.parametrize(
    ("header", "kind", "told"),
    [
        ('Bearer service="s"', RegistryError, "a Bearer challenge without a realm"),
        ('Bearer realm="http://192.0.2.1/t"', RegistryError, "192.0.2.1 by plain http"),
        ('Bearer realm="gopher://x/t"', RegistryError, "neither http nor https"),
        ("Negotiate", Unauthorized, "as alice: UNAUTHORIZED: who?"),
        ("", Unauthorized, "as alice: UNAUTHORIZED: who?"),
    ],
)
def test_challenges_that_get_no_answer(
    server: Hostile, header: str, kind: type[ImgmountError], told: str
) -> None:
    server.on(MANIFEST, error(401, "UNAUTHORIZED", "who?", WWW_Authenticate=header))
    assert told in refused(server, kind, credentials=ALICE)


def test_a_token_that_is_not_taken(server: Hostile, authority: Hostile) -> None:
    authority.on(TOKEN, granted("one"))
    server.on(MANIFEST, challenge(authority))
    told = refused(server, Unauthorized)
    assert f"{server.domain}/a:t: may not be read without credentials" in told
    assert len(server.heard) == 2


def test_requests_at_once_share_a_token(server: Hostile, authority: Hostile) -> None:
    authority.on(TOKEN, granted("one"))
    server.on(MANIFEST, wants("one", challenge(authority), Answer(200, b"{}")))

    async def call(r: Registry) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(r.manifest, "a", "t")

    talk(server.domain, call)
    assert len(authority.heard) == 1


def test_an_upload_refused_in_its_middle(server: Hostile, authority: Hostile) -> None:
    """The token expires between the POST and the PUT: the bytes are sent from the beginning."""
    blob = described(b"x" * 100_000)
    scope = "GET /token?service=s&scope=repository%3Aa%3Apull%2Cpush"
    authority.on(scope, granted("one"), granted("two"))
    refusal = challenge(authority)
    place = Answer(202, headers={"Location": "/put?x=1"})
    server.on("POST /v2/a/blobs/uploads/", wants("one", refusal, place))
    server.on(f"PUT /put?x=1&digest=sha256%3A{blob.digest.hex}", wants("two", refusal, Answer(201)))
    began: list[int] = []
    pieces = source(b"x" * 100_000, began)
    talk(server.domain, lambda r: r.upload_blob("a", blob.digest, blob.size, pieces))
    assert began == [0, 0]
    assert server.requests[-1].body == b"x" * 100_000
