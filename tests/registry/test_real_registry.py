"""The client with Debian's docker-registry; skopeo pushes and pulls the same images."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

import pytest
from oracle import run
from realregistry import Authority, RealRegistry, real_registry
from talking import (
    QUICK,
    Pushed,
    Slept,
    artifact,
    described,
    source,
    talk,
    whole,
)

from fusemount.digest import Digest
from fusemount.errors import ImageNotFound, RegistryError, VerificationFailed
from fusemount.image.model import OCI
from fusemount.registry.client import Registry
from fusemount.registry.options import RegistryOptions

LARGE = 32 << 20  # more than socket buffers hold


def uploads(registry: RealRegistry, repository: str) -> list[Path]:
    """The uploads that were begun at the registry and not ended."""
    directory = registry.base / "data/docker/registry/v2/repositories" / repository / "_uploads"
    assert directory.is_dir()
    return list(directory.glob("*/startedat"))


def test_a_manifest_by_tag_and_by_digest(registry: RealRegistry, pushed: Pushed) -> None:
    async def call(r: Registry) -> None:
        by_tag = await r.manifest(pushed.repository, pushed.tag)
        assert by_tag.data == pushed.manifest
        assert by_tag.media_type == OCI + "manifest.v1+json"
        assert by_tag.digest == Digest.of(pushed.manifest)
        assert await r.manifest(pushed.repository, by_tag.digest) == by_tag
        head = await r.head_manifest(pushed.repository, pushed.tag)
        assert (head.digest, head.size) == (by_tag.digest, len(by_tag.data))
        assert head.media_type == by_tag.media_type

    talk(registry.domain, call)


def test_a_blob_whole_and_from_an_offset(registry: RealRegistry, pushed: Pushed) -> None:
    layer = pushed.layer
    data = pushed.blob(layer.digest)

    async def call(r: Registry) -> None:
        assert await whole(r, pushed.repository, layer) == data
        assert await whole(r, pushed.repository, layer, 1000) == data[1000:]
        assert await whole(r, pushed.repository, layer, len(data)) == b""

    talk(registry.domain, call)


@pytest.mark.parametrize("reference", ["no-such-tag", "sha256:" + "0" * 64])
def test_what_is_not_there(registry: RealRegistry, pushed: Pushed, reference: str) -> None:
    async def call(r: Registry) -> None:
        for lookup in (r.manifest, r.head_manifest):
            with pytest.raises(ImageNotFound, match=reference):
                await lookup(pushed.repository, reference)
        with pytest.raises(ImageNotFound, match="no/such: NAME_UNKNOWN"):
            await r.tags("no/such")
        absent = described(b"absent")
        assert not await r.has_blob(pushed.repository, absent.digest)
        with pytest.raises(RegistryError, match=f"{absent.digest}: BLOB_UNKNOWN"):
            await whole(r, pushed.repository, absent)

    talk(registry.domain, call)


@pytest.mark.parametrize("chunk", [0, 1 << 20, 3_000_001], ids=["put", "chunks", "odd chunks"])
@pytest.mark.parametrize("size", [0, 1, 5 << 20])
def test_an_upload_comes_back(registry: RealRegistry, chunk: int, size: int) -> None:
    data = os.urandom(size)
    blob = described(data)
    repository = f"up/{chunk}-{size}"
    options = RegistryOptions(retry_delays=(), upload_chunk=chunk)

    async def call(r: Registry) -> None:
        assert size == 0 or not await r.has_blob(repository, blob.digest)
        await r.upload_blob(repository, blob.digest, size, source(data))
        assert await r.has_blob(repository, blob.digest)
        assert await whole(r, repository, blob) == data

    talk(registry.domain, call, options)


@pytest.mark.parametrize("chunk", [0, 1 << 20], ids=["put", "chunks"])
def test_an_upload_of_other_bytes_is_refused(registry: RealRegistry, chunk: int) -> None:
    data = os.urandom(2 << 20)
    options = RegistryOptions(retry_delays=(), upload_chunk=chunk)

    async def call(r: Registry) -> None:
        wrong = described(b"other")
        with pytest.raises(VerificationFailed, match="DIGEST_INVALID"):
            await r.upload_blob("up/wrong", wrong.digest, len(data), source(data))
        with pytest.raises(VerificationFailed, match="ended 5 bytes early"):
            await r.upload_blob("up/wrong", wrong.digest, len(data) + 5, source(data))

    talk(registry.domain, call, options)


def test_an_error_of_the_source_comes_out(registry: RealRegistry) -> None:
    async def pieces(offset: int) -> AsyncGenerator[bytes, None]:
        raise OSError("disk gone")
        yield b""

    async def call(r: Registry) -> None:
        with pytest.raises(OSError, match="disk gone"):
            await r.upload_blob("up/broken", Digest.of(b""), 5000, pieces)

    talk(registry.domain, call)
    assert not uploads(registry, "up/broken")


def test_a_blob_is_mounted_from_another_repository(registry: RealRegistry, pushed: Pushed) -> None:
    async def call(r: Registry) -> None:
        assert await r.mount_blob("mounted/here", pushed.layer.digest, pushed.repository)
        assert await r.has_blob("mounted/here", pushed.layer.digest)
        assert not await r.mount_blob("mounted/here", Digest.of(b"absent"), pushed.repository)

    talk(registry.domain, call)
    assert not uploads(registry, "mounted/here")


def test_skopeo_reads_what_was_put(registry: RealRegistry, pushed: Pushed, tmp_path: Path) -> None:
    layout = f"{tmp_path}/back"

    async def call(r: Registry) -> None:
        for path in (pushed.layout / "blobs/sha256").iterdir():
            data = path.read_bytes()
            await r.upload_blob("put/image", Digest.of(data), len(data), source(data))
        kind = OCI + "manifest.v1+json"
        assert await r.put_manifest("put/image", "v1", kind, pushed.manifest) == Digest.of(
            pushed.manifest
        )

    talk(registry.domain, call)
    run("skopeo", "copy", "-q", "--src-tls-verify=false",
        f"docker://{registry.domain}/put/image:v1", f"oci:{layout}:t")  # fmt: skip
    assert Path(layout, "blobs/sha256", Digest.of(pushed.manifest).hex).exists()


def test_a_manifest_whose_blobs_are_missing_is_refused(
    registry: RealRegistry, pushed: Pushed
) -> None:
    async def call(r: Registry) -> None:
        with pytest.raises(RegistryError, match="put/bare:v1: MANIFEST_BLOB_UNKNOWN"):
            await r.put_manifest("put/bare", "v1", OCI + "manifest.v1+json", pushed.manifest)

    talk(registry.domain, call)


def test_tags_are_all_listed_and_a_manifest_goes(registry: RealRegistry, pushed: Pushed) -> None:
    kind = OCI + "manifest.v1+json"

    async def call(r: Registry) -> None:
        for path in (pushed.layout / "blobs/sha256").iterdir():
            assert await r.mount_blob("many", Digest.of(path.read_bytes()), pushed.repository) or (
                path.read_bytes() == pushed.manifest
            )
        for number in range(5):
            await r.put_manifest("many", f"v{number}", kind, pushed.manifest)
        assert sorted(await r.tags("many")) == [f"v{number}" for number in range(5)]
        await r.delete_manifest("many", Digest.of(pushed.manifest))
        with pytest.raises(ImageNotFound):
            await r.manifest("many", "v0")
        with pytest.raises(ImageNotFound):
            await r.delete_manifest("many", Digest.of(pushed.manifest))

    talk(registry.domain, call)


def test_referrers_by_the_tag_scheme(registry: RealRegistry, pushed: Pushed) -> None:
    """This registry has no referrers API."""
    subject = described(pushed.manifest)
    signature = artifact(subject, "application/x.signature")
    kind = OCI + "manifest.v1+json"

    async def call(r: Registry) -> None:
        assert await r.referrers(pushed.repository, subject.digest) == []
        await r.upload_blob(pushed.repository, Digest.of(b"{}"), 2, source(b"{}"))
        digest = await r.put_manifest(pushed.repository, Digest.of(signature), kind, signature)
        entry = (
            f'{{"mediaType":"{kind}","digest":"{digest}","size":{len(signature)},'
            '"artifactType":"application/x.signature"}'
        )
        index = f'{{"schemaVersion":2,"mediaType":"{OCI}index.v1+json","manifests":[{entry}]}}'
        tag = subject.digest.replace(":", "-")
        await r.put_manifest(pushed.repository, tag, OCI + "index.v1+json", index.encode())
        found = await r.referrers(pushed.repository, subject.digest)
        assert [each.digest for each in found] == [digest]
        of_kind = await r.referrers(pushed.repository, subject.digest, "application/x.signature")
        assert of_kind == found
        assert await r.referrers(pushed.repository, subject.digest, "application/x.other") == []

    talk(registry.domain, call)


@pytest.mark.parametrize("tls", [False, True], ids=["clear", "TLS"])
def test_a_registry_killed_in_mid_blob(tmp_path: Path, authority: Authority, tls: bool) -> None:
    data = os.urandom(LARGE)
    blob = described(data)
    options = RegistryOptions(retry_delays=(0.0,) * 3, ca_files=(authority.ca,))
    with real_registry(tmp_path, tls=authority if tls else None) as server:
        slept = Slept(lambda: server.process or server.start())

        async def call(r: Registry) -> None:
            await r.upload_blob("a/b", blob.digest, len(data), source(data))
            got = bytearray()
            async with aclosing(r.blob("a/b", blob)) as pieces:
                async for piece in pieces:
                    if not got:
                        server.kill()
                    got += piece
            assert bytes(got) == data

        talk(server.domain, call, options, sleep=slept)
        assert slept.seconds


@pytest.mark.parametrize("chunk", [0, 4 << 20], ids=["put", "chunks"])
def test_a_registry_killed_in_mid_upload(tmp_path: Path, chunk: int) -> None:
    data = os.urandom(LARGE)
    blob = described(data)
    began: list[int] = []
    with real_registry(tmp_path) as server:
        slept = Slept(lambda: server.process or server.start())

        async def pieces(offset: int) -> AsyncGenerator[bytes, None]:
            began.append(offset)
            for at in range(offset, len(data), 1 << 20):
                if at >= LARGE // 2 and not slept.seconds:
                    server.kill()
                yield data[at : at + (1 << 20)]

        async def call(r: Registry) -> None:
            await r.upload_blob("a/b", blob.digest, len(data), pieces)
            assert await whole(r, "a/b", blob) == data

        options = RegistryOptions(retry_delays=(0.0,) * 3, upload_chunk=chunk)
        talk(server.domain, call, options, sleep=slept)
        assert len(slept.seconds) == 1
        # this registry forgets an upload whose request broke after some bytes, and no other
        assert began.count(0) == (1 if chunk else 2)


def test_nobody_there_is_told_at_once(tmp_path: Path) -> None:
    with real_registry(tmp_path) as server:
        pass

    async def call(r: Registry) -> None:
        with pytest.raises(RegistryError, match=f"^{server.domain}.*: connection refused$"):
            await r.manifest("a/b", "latest")

    slept = Slept()
    talk(server.domain, call, QUICK, sleep=slept)
    assert not slept.seconds


def test_an_unknown_host() -> None:
    async def call(r: Registry) -> None:
        with pytest.raises(
            RegistryError, match=r"registry\.invalid/a/b:latest: registry\.invalid: "
        ):
            await r.manifest("a/b", "latest")

    talk("registry.invalid", call)
