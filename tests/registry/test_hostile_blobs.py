"""Blobs that break off, come slowly or have another length: the right bytes or one clear error."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import replace

import pytest
import trio
from hostile import Answer, Hostile, Request
from spoiled import (
    ALICE,
    BLOB,
    BLOB_PATH,
    DATA,
    MANIFEST_PATH,
    STALLING,
    get_blob,
    one_line,
    part,
    ranged,
    refused_blob,
)
from talking import QUICK, Slept, described, talk, whole

from fusemount.digest import Digest
from fusemount.errors import (
    RegistryError,
    VerificationFailed,
)
from fusemount.image.model import Descriptor
from fusemount.registry.client import Registry
from fusemount.registry.options import RegistryOptions


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
    """Only the time that the client waits for bytes counts, not the time that the reader takes."""
    server.on(f"GET {BLOB_PATH}", Answer(200, DATA))
    options = replace(STALLING, progress_seconds=0.8)

    async def call(r: Registry) -> int:
        got = 0
        async for piece in r.blob("a", BLOB):
            got += len(piece)
            if got == len(piece):
                await trio.sleep(1)
        return got

    assert talk(server.domain, call, options) == len(DATA)
    assert len(server.heard) == 1


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


def test_a_blob_that_nobody_wants_any_more(server: Hostile) -> None:
    """A cancelled reader, and one that stops, leave nothing open behind."""
    server.on(f"GET {BLOB_PATH}", Answer(200, DATA[:-1], {"Content-Length": str(len(DATA))},
                                         drip=0), part(0, drip=0.01))  # fmt: skip

    async def call(r: Registry) -> None:
        async with aclosing(r.blob("a", BLOB)) as pieces:
            await anext(pieces)
        with trio.move_on_after(0.05) as scope:
            await whole(r, "a", BLOB)
        assert scope.cancelled_caught

    talk(server.domain, call)


def test_many_blobs_at_once(server: Hostile) -> None:
    blobs = [DATA[at : at + 300_000] for at in range(0, 3_000_000, 300_000)]
    for data in blobs:
        server.on(f"GET /v2/a/blobs/{Digest.of(data)}", Answer(503), Answer(200, data))
    got: dict[int, bytes] = {}

    async def call(r: Registry) -> None:
        async def one(number: int) -> None:
            got[number] = await whole(r, "a", described(blobs[number]))

        async with trio.open_nursery() as nursery:
            for number in range(len(blobs)):
                nursery.start_soon(one, number)

    talk(server.domain, call)
    assert [got[number] for number in range(len(blobs))] == blobs
