"""The client against Debian's docker-registry: plain, TLS, Basic, Bearer; images pushed by skopeo."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, TypeVar

import trio
from conftest import Pushed
from realregistry import RealRegistry

from fusemount.digest import Digest
from fusemount.image.model import OCI, Descriptor
from fusemount.registry.client import Registry
from fusemount.registry.credentials import Credentials
from fusemount.registry.options import RegistryOptions

T = TypeVar("T")
QUICK = RegistryOptions(retry_delays=(0.0, 0.0, 0.0))


def with_registry(
    domain: str,
    call: Callable[[Registry], Awaitable[T]],
    options: RegistryOptions = QUICK,
    credentials: Credentials | None = None,
) -> T:
    async def main() -> T:
        async with Registry(domain, options, credentials) as registry:
            return await call(registry)

    with_limit: T = trio.run(main)
    return with_limit


async def whole(registry: Registry, repository: str, descriptor: Descriptor, at: int = 0) -> bytes:
    data = bytearray()
    async with aclosing(registry.blob(repository, descriptor, at)) as pieces:
        async for piece in pieces:
            data += piece
    return bytes(data)


def descriptor_of(layer: dict[str, Any]) -> Descriptor:
    return Descriptor(layer["mediaType"], Digest(layer["digest"]), layer["size"])


def of_bytes(data: bytes) -> Descriptor:
    return Descriptor("", Digest.of(data), len(data))


def source(data: bytes, began: list[int] | None = None) -> Any:
    async def pieces(offset: int) -> AsyncGenerator[bytes, None]:
        if began is not None:
            began.append(offset)
        for at in range(offset, len(data), 1 << 16):
            yield data[at : at + (1 << 16)]

    return pieces


def test_manifest_by_tag_and_digest(registry: RealRegistry, pushed: Pushed) -> None:
    async def call(r: Registry) -> None:
        by_tag = await r.manifest(pushed.repository, pushed.tag)
        assert by_tag.data == pushed.manifest
        assert by_tag.media_type == OCI + "manifest.v1+json"
        assert by_tag.digest == Digest.of(pushed.manifest)
        assert await r.manifest(pushed.repository, by_tag.digest) == by_tag
        head = await r.head_manifest(pushed.repository, pushed.tag)
        assert (head.digest, head.size) == (by_tag.digest, len(by_tag.data))

    with_registry(registry.domain, call)


def test_blob_whole_and_from_an_offset(registry: RealRegistry, pushed: Pushed) -> None:
    layer = descriptor_of(pushed.layer)
    data = pushed.blob(layer.digest)

    async def call(r: Registry) -> None:
        assert await whole(r, pushed.repository, layer) == data
        assert await whole(r, pushed.repository, layer, 1000) == data[1000:]
        assert await whole(r, pushed.repository, layer, len(data)) == b""

    with_registry(registry.domain, call)
