"""Short calls of the client, for its tests."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import trio
from oracle import run
from trio.abc import Clock

from fusemount.digest import Digest
from fusemount.image.model import OCI, Descriptor
from fusemount.registry.client import Registry
from fusemount.registry.credentials import Credentials
from fusemount.registry.options import RegistryOptions
from fusemount.registry.upload import Pieces

T = TypeVar("T")
TEST_SECONDS = 60
QUICK = RegistryOptions(retry_delays=(0.0, 0.0, 0.0))
EMPTY = "application/vnd.oci.empty.v1+json"


@dataclass(frozen=True)
class Pushed:
    """layout: what was pushed, as `oci:DIR:t`; manifest: its bytes."""

    repository: str
    tag: str
    layout: Path
    manifest: bytes

    @property
    def layer(self) -> Descriptor:
        found: dict[str, Any] = json.loads(self.manifest)["layers"][0]
        return Descriptor(found["mediaType"], Digest(found["digest"]), found["size"])

    def blob(self, digest: Digest) -> bytes:
        return (self.layout / "blobs/sha256" / digest.hex).read_bytes()


def push(layout: Path, target: str, *options: str) -> None:
    run("skopeo", "copy", "-q", *options, f"oci:{layout}:t", f"docker://{target}")


def manifest_of(layout: Path) -> bytes:
    digest = json.loads((layout / "index.json").read_bytes())["manifests"][0]["digest"]
    return (layout / "blobs/sha256" / Digest(digest).hex).read_bytes()


class Slept:
    """Stands in for trio.sleep: no time passes; calls `then` each time."""

    def __init__(self, then: Callable[[], object] = lambda: None) -> None:
        self.seconds: list[float] = []
        self._then = then

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)
        self._then()
        await trio.lowlevel.checkpoint()


def talk(
    domain: str,
    call: Callable[[Registry], Awaitable[T]],
    options: RegistryOptions = QUICK,
    credentials: Credentials | None = None,
    sleep: Slept | None = None,
    clock: Clock | None = None,
) -> T:
    async def main() -> T:
        with trio.fail_after(TEST_SECONDS):
            async with Registry(domain, options, credentials, sleep or Slept()) as registry:
                return await call(registry)

    result: T = trio.run(main, clock=clock)
    return result


async def whole(registry: Registry, repository: str, descriptor: Descriptor, at: int = 0) -> bytes:
    data = bytearray()
    async with aclosing(registry.blob(repository, descriptor, at)) as pieces:
        async for piece in pieces:
            data += piece
    return bytes(data)


def described(data: bytes) -> Descriptor:
    return Descriptor("", Digest.of(data), len(data))


def source(data: bytes, began: list[int] | None = None) -> Pieces:
    """began: the function adds the offsets that the client asks for."""

    async def pieces(offset: int) -> AsyncGenerator[bytes, None]:
        if began is not None:
            began.append(offset)
        for at in range(offset, len(data), 1 << 16):
            yield data[at : at + (1 << 16)]

    return pieces


def artifact(subject: Descriptor, kind: str) -> bytes:
    """A manifest with another manifest as its subject; its config and layer are the blob `{}`."""
    empty = {"mediaType": EMPTY, "digest": Digest.of(b"{}"), "size": 2}
    document = {
        "schemaVersion": 2,
        "mediaType": OCI + "manifest.v1+json",
        "artifactType": kind,
        "config": empty,
        "layers": [empty],
        "subject": {
            "mediaType": OCI + "manifest.v1+json",
            "digest": subject.digest,
            "size": subject.size,
        },
    }
    return json.dumps(document).encode()
