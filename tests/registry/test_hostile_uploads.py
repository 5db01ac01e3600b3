"""Uploads to a registry that breaks off, forgets bytes, counts wrongly, or wants smaller pieces."""

from __future__ import annotations

import random

import pytest
from hostile import Answer, Hostile, Request, error, hostile
from talking import Slept, described, source, talk

from fusemount.digest import Digest
from fusemount.errors import MalformedImage, RegistryError, VerificationFailed
from fusemount.image.model import OCI
from fusemount.registry import upload as upload_module
from fusemount.registry.options import RegistryOptions

DATA = random.Random(6).randbytes(1_000_000)
BLOB = described(DATA)
POST = "POST /v2/a/blobs/uploads/"
HALF = len(DATA) // 2


class Receiver:
    """The registry's side of one upload, with faults that the test chooses."""

    def __init__(self, server: Hostile, minimum: int = 0, keeps: int = len(DATA)) -> None:
        self.got = bytearray()
        self.begun = 0
        self.done = b""
        self._server = server
        self._minimum = minimum
        self._keeps = keeps
        server.on(POST, self.begin)
        self._place()

    def _place(self) -> None:
        """Each answer names another Location, and only the last one is valid."""
        self.url = f"/up/{len(self._server.requests)}?state=%2Bx"
        self._server.on(f"GET {self.url}", lambda r: self._where(204))
        self._server.on(f"PATCH {self.url}", self.patch)
        self._server.on(f"PUT {self.url}&digest=sha256%3A{BLOB.digest.hex}", self.put)
        self._server.on(f"DELETE {self.url}", Answer(204))

    def _where(self, status: int) -> Answer:
        self._place()
        headers = {"Location": self.url, "Range": f"0-{max(0, len(self.got) - 1)}"}
        if self._minimum:
            headers["OCI-Chunk-Min-Length"] = str(self._minimum)
        return Answer(status, headers=headers)

    def begin(self, request: Request) -> Answer:
        self.begun += 1
        self.got.clear()
        return self._where(202)

    def patch(self, request: Request) -> Answer:
        first, _, last = request.headers["content-range"].partition("-")
        if int(first) != len(self.got):
            return self._where(416)
        assert int(last) - int(first) + 1 == len(request.body)
        self.got += request.body[: self._keeps]
        return self._where(202)

    def put(self, request: Request) -> Answer:
        self.got += request.body
        if Digest.of(bytes(self.got)) != BLOB.digest:
            return error(400, "DIGEST_INVALID", "no")
        self.done = bytes(self.got)
        return Answer(201)


def send(server: Hostile, chunk: int = 0, attempts: int = 2) -> list[int]:
    """Uploads; the offsets from which the client asked for bytes."""
    began: list[int] = []
    options = RegistryOptions(retry_delays=(0.0,) * attempts, upload_chunk=chunk)
    pieces = source(DATA, began)
    talk(server.domain, lambda r: r.upload_blob("a", BLOB.digest, BLOB.size, pieces), options,
         sleep=Slept())  # fmt: skip
    return began


def test_one_put(server: Hostile) -> None:
    receiver = Receiver(server)
    assert send(server) == [0]
    assert receiver.done == DATA
    assert [each.split()[0] for each in server.heard] == ["POST", "PUT"]


@pytest.mark.parametrize(("chunk", "minimum", "count"), [(300_000, 0, 4), (1, 400_000, 3)])
def test_chunks(server: Hostile, chunk: int, minimum: int, count: int) -> None:
    receiver = Receiver(server, minimum)
    assert len(send(server, chunk)) == count
    assert receiver.done == DATA
    assert [each.split()[0] for each in server.heard] == ["POST"] + ["PATCH"] * count + ["PUT"]


def test_a_put_that_broke_goes_on(server: Hostile) -> None:
    receiver = Receiver(server)
    whole_put = receiver.put

    def broken(request: Request) -> Answer:
        if len(request.body) < len(DATA):
            return whole_put(request)
        receiver.got += request.body[:HALF]
        return Answer(502)

    receiver.put = broken  # type: ignore[method-assign]
    receiver._place()
    assert send(server) == [0, HALF]
    assert receiver.done == DATA
    assert [each.split()[0] for each in server.heard] == ["POST", "PUT", "GET", "PATCH", "PUT"]


def test_a_registry_that_keeps_less_of_a_chunk_than_it_got(server: Hostile) -> None:
    receiver = Receiver(server, keeps=250_000)
    assert send(server, chunk=400_000) == [0, 250_000, 500_000, 750_000]
    assert receiver.done == DATA


def test_an_upload_that_is_forgotten_begins_anew(server: Hostile) -> None:
    receiver = Receiver(server)
    first = iter((True,))
    patch = receiver.patch

    def forgets(request: Request) -> Answer:
        if next(first, False):
            receiver.got += b"?"  # so that the next chunk is out of order
        return patch(request)

    receiver.patch = forgets  # type: ignore[method-assign]
    receiver._place()
    server.on(f"GET {receiver.url}", error(404, "BLOB_UPLOAD_UNKNOWN", "gone"))
    send(server, chunk=HALF)
    assert receiver.done == DATA and receiver.begun == 2


def test_what_was_kept_of_a_broken_put_was_wrong(server: Hostile) -> None:
    receiver = Receiver(server)
    first = iter((True,))
    whole_put = receiver.put

    def spoils(request: Request) -> Answer:
        if next(first, False):
            receiver.got += bytes(HALF)
            return Answer(503)
        return whole_put(request)

    receiver.put = spoils  # type: ignore[method-assign]
    receiver._place()
    send(server)
    assert receiver.done == DATA and receiver.begun == 2


def test_a_put_that_is_too_large(server: Hostile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload_module, "CHUNK", 300_000)
    receiver = Receiver(server)
    whole_put = receiver.put

    def limited(request: Request) -> Answer:
        return Answer(413) if len(request.body) > 500_000 else whole_put(request)

    receiver.put = limited  # type: ignore[method-assign]
    receiver._place()
    assert send(server, attempts=0) == [0, 0, 300_000, 600_000, 900_000]
    assert receiver.done == DATA


def test_a_chunk_that_is_too_large(server: Hostile) -> None:
    receiver = Receiver(server)
    receiver.patch = lambda request: Answer(413)  # type: ignore[method-assign]
    receiver._place()
    with pytest.raises(RegistryError, match="413"):
        send(server, chunk=HALF)
    assert server.heard[-1].startswith("DELETE")


def test_a_registry_that_never_counts_on(server: Hostile) -> None:
    Receiver(server, keeps=0)
    with pytest.raises(RegistryError, match="kept nothing of a chunk"):
        send(server, chunk=HALF)
    assert server.heard[-1].startswith("DELETE")


def test_an_upload_without_a_place(server: Hostile) -> None:
    server.on(POST, Answer(202))
    with pytest.raises(RegistryError, match="an upload without a Location"):
        send(server)


def test_an_upload_that_leads_to_another_host(server: Hostile) -> None:
    with hostile("127.0.0.2") as other:
        server.on(POST, Answer(202, headers={"Location": f"http://{other.domain}/up"}))
        other.on(f"PUT /up?digest=sha256%3A{BLOB.digest.hex}", Answer(201))
        send(server)
        assert other.requests[-1].body == DATA
        assert other.sent("authorization") == [None]


def test_a_manifest_that_became_another(server: Hostile) -> None:
    headers = {"Docker-Content-Digest": Digest.of(b"other")}
    server.on("PUT /v2/a/manifests/t", Answer(201, headers=headers))
    with pytest.raises(VerificationFailed, match=r"a:t: pushed sha256:\w+, the registry has sha"):
        talk(server.domain, lambda r: r.put_manifest("a", "t", OCI + "manifest.v1+json", b"{}"))


@pytest.mark.parametrize("media_type", ["a/b\r\nX: y", "a/\u00e9"])
def test_a_media_type_that_no_header_carries(server: Hostile, media_type: str) -> None:
    with pytest.raises(MalformedImage, match="is no media type"):
        talk(server.domain, lambda r: r.put_manifest("a", "t", media_type, b"{}"))
    assert not server.heard


@pytest.mark.parametrize("status", [404, 405])
def test_a_registry_that_mounts_nothing(server: Hostile, status: int) -> None:
    server.on(f"POST /v2/a/blobs/uploads/?mount=sha256%3A{BLOB.digest.hex}&from=b", Answer(status))
    assert not talk(server.domain, lambda r: r.mount_blob("a", BLOB.digest, "b"))


def test_a_registry_that_keeps_byte_by_byte(server: Hostile) -> None:
    Receiver(server, keeps=2)
    with pytest.raises(RegistryError, match=r"the registry kept [12] of \d+ bytes"):
        send(server, chunk=HALF)
    assert len([each for each in server.heard if each.startswith("PATCH")]) == 3
