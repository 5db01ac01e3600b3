"""The client leaves a server whose answer never begins: the head has a limit of time and of bytes.

The clock moves only at the reads of the endless head, so that no step before it can be late.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from hostile import Answer, Hostile, Request, error
from talking import talk
from trio.testing import MockClock

from fusemount.errors import RegistryError
from fusemount.registry.client import Registry
from fusemount.registry.head import HEAD_BYTES_MAX, HeadWatch
from fusemount.registry.options import RegistryOptions

Reply = Answer | Callable[[Request], Answer]
BRIEF = RegistryOptions(retry_delays=(), reply_seconds=0.1, written_seconds=0.1)
HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </x>; rel=preload\r\n\r\n"
PACE = 0.001  # seconds
TICK = 0.03  # the clock's step at each read: too short for the timeout of one read
NEVER = [
    (HINTS,),
    (b"HTTP/1.1 100 Continue\r\n\r\n",),
    (b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n"),
    (b"HTTP/1.1 200 OK\r\n", b"x"),
]


async def pull(registry: Registry) -> None:
    await registry.manifest("a", "t")


async def push(registry: Registry) -> None:
    await registry.put_manifest("a", "t", "application/json", b"{}")


def at_once(server: Hostile, never: Reply) -> None:
    server.on("GET /v2/a/manifests/t", never)
    server.on("PUT /v2/a/manifests/t", never)


def redirected(server: Hostile, never: Reply) -> None:
    server.on("GET /v2/a/manifests/t", Answer(307, headers={"Location": "/there"}))
    server.on("GET /there", never)


def at_the_token_server(server: Hostile, never: Reply) -> None:
    realm = f'Bearer realm="http://{server.domain}/token",service="s"'
    server.on("GET /v2/a/manifests/t", error(401, "UNAUTHORIZED", "who?", WWW_Authenticate=realm))
    server.on("GET /token?service=s&scope=repository%3Aa%3Apull", never)


WAYS = [(pull, at_once), (push, at_once), (pull, redirected), (pull, at_the_token_server)]


@pytest.mark.parametrize(("call", "place"), WAYS)
def test_a_head_without_end(
    server: Hostile,
    call: Callable[[Registry], Awaitable[None]],
    place: Callable[[Hostile, Reply], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, count = MockClock(), HeadWatch._count
    reached: list[Request] = []

    def ticking(watch: HeadWatch, arrived: int) -> None:
        if arrived and reached:
            clock.jump(TICK)
        count(watch, arrived)

    monkeypatch.setattr(HeadWatch, "_count", ticking)

    async def each(registry: Registry) -> None:
        for never in NEVER:
            reached.clear()
            flood = Answer(flood=never, drip=PACE)
            place(server, lambda request, flood=flood: (reached.append(request), flood)[1])
            with pytest.raises(RegistryError) as told:
                await call(registry)
            line = str(told.value)
            assert line.isprintable() and server.domain in line
            assert "no answer in time" in line and len(reached) == 1

    talk(server.domain, each, BRIEF, clock=clock)


def test_a_flood_of_interim_answers(server: Hostile) -> None:
    """The client does not repeat the request."""
    padded = HINTS.replace(b"/x", b"/" + b"x" * 8000)
    at_once(server, Answer(flood=(padded,)))
    with pytest.raises(RegistryError, match=f"sends more than {HEAD_BYTES_MAX} bytes of headers"):
        talk(server.domain, pull)
    assert len(server.heard) == 1


def test_a_few_interim_answers_are_no_harm(server: Hostile) -> None:
    body = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
    at_once(server, Answer(flood=(HINTS, HINTS, body, b"")))

    async def call(registry: Registry) -> bytes:
        return (await registry.manifest("a", "t")).data

    assert talk(server.domain, call) == b"{}"
