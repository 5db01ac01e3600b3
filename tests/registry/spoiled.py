"""A blob and a manifest at a hostile registry, and the messages when the client refuses them."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hostile import Answer, Hostile, Request
from talking import QUICK, Slept, described, talk, whole

from fusemount.errors import (
    ImgmountError,
)
from fusemount.registry.credentials import Credentials
from fusemount.registry.options import RegistryOptions

DATA = random.Random(5).randbytes(3 << 20)
BLOB = described(DATA)
BLOB_PATH = f"/v2/a/blobs/{BLOB.digest}"
MANIFEST_PATH = "/v2/a/manifests/t"
ALICE = Credentials("alice", "secret")
STALLING = RegistryOptions(retry_delays=(0.0,), progress_seconds=0.2, progress_bytes=1000)


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
