"""The calls of one registry, by the OCI distribution spec 1.1.

Law: only `_url` builds a path of the registry.  It checks the repository and the reference, because
a name like `../x` would lead out of the repository, together with its credentials.

repository: without the domain, `library/busybox`.  reference: a tag or a digest.  Every call may
raise RegistryError (the registry is unreachable, refuses, or breaks the protocol) and Unauthorized
(401, 403); a call's docstring names the further errors.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from types import TracebackType
from urllib.parse import urlencode

import trio

from fusemount.dataclass import dataclass
from fusemount.digest import Digest
from fusemount.errors import (
    ImageNotFound,
    ImgmountError,
    MalformedImage,
    RegistryError,
    VerificationFailed,
)
from fusemount.image.fields import DOCUMENT_BYTES_MAX, object_of, parse_json, shown
from fusemount.image.model import INDEX_TYPES, MANIFEST_TYPES, Descriptor
from fusemount.image.parse import parse_index
from fusemount.imagename import RepositoryPath, Tag
from fusemount.registry.connection import Ask, Connection, Reply
from fusemount.registry.credentials import Credentials
from fusemount.registry.download import BlobSource, download
from fusemount.registry.options import RegistryOptions
from fusemount.registry.replies import next_link
from fusemount.registry.retries import Sleep
from fusemount.registry.upload import Pieces, Upload, cancel_upload, upload
from fusemount.registry.urls import joined, next_page

ACCEPT = ", ".join(sorted(INDEX_TYPES) + sorted(MANIFEST_TYPES))
SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1"
PAGE = 1000  # tags that one request asks for
PAGES_MAX = 10_000
PAGE_BYTES_MAX = 16 << 20
TAGS_MAX = 1_000_000  # of a repository, all pages together
REFERRERS_MAX = 100_000  # of a manifest, all pages together
NO_BODY_MAX = 64 << 10  # bytes of an answer that should have no body


@dataclass(frozen=True)
class FetchedManifest:
    """media_type: from the answer's header, "" if that is no type of a manifest.  digest: computed
    from data."""

    media_type: str
    data: bytes
    digest: Digest


class Registry:
    """An async context manager.  Its calls may run at the same time."""

    def __init__(
        self,
        domain: str,
        options: RegistryOptions | None = None,
        credentials: Credentials | None = None,
        sleep: Sleep = trio.sleep,
    ) -> None:
        self.domain = domain
        self._connection = Connection(domain, options or RegistryOptions(), credentials, sleep)

    async def __aenter__(self) -> Registry:
        await self._connection.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._connection.__aexit__(kind, error, trace)

    async def manifest(self, repository: str, reference: str) -> FetchedManifest:
        """A manifest or index by tag or digest.

        Raises ImageNotFound; MalformedImage for docker's schema 1; VerificationFailed.
        """
        reply = await self._connection.reply(
            self._manifest_ask("GET", repository, reference), DOCUMENT_BYTES_MAX
        )
        what = self._name(repository, reference)
        media_type = _media_type(reply)
        if media_type.startswith(SCHEMA_1):
            raise MalformedImage(f"{what}: a docker schema 1 manifest, which carries no config")
        digest = Digest.of(reply.data)
        for source, wanted in (
            ("asked for", _digest_or_none(reference)),
            ("said by the registry", _digest_or_none(_content_digest(reply))),
        ):
            if wanted is not None and wanted != digest:
                raise VerificationFailed(f"{what}: {wanted} was {source}, the bytes are {digest}")
        return FetchedManifest(media_type, reply.data, digest)

    async def head_manifest(self, repository: str, reference: str) -> Descriptor:
        """The descriptor that a tag stands for, without the manifest's bytes.

        Docker Hub does not count this as a pull.  Gets the manifest if the headers lack its digest
        or its length.

        Raises ImageNotFound.
        """
        reply = await self._connection.reply(
            self._manifest_ask("HEAD", repository, reference), NO_BODY_MAX
        )
        digest = _digest_or_none(_content_digest(reply)) or _digest_or_none(reference)
        length = reply.headers.get("content-length", "")
        if digest is None or not length.isdecimal() or len(length) > 18:
            found = await self.manifest(repository, reference)
            return Descriptor(found.media_type, found.digest, len(found.data))
        return Descriptor(_media_type(reply), digest, int(length))

    def blob(
        self, repository: str, descriptor: Descriptor, offset: int = 0
    ) -> AsyncGenerator[bytes, None]:
        """The bytes from offset on.  The caller closes the generator (`contextlib.aclosing`).

        Ends after exactly `descriptor.size - offset` bytes; the caller checks the digest.
        Raises VerificationFailed if the blob has another length.
        """
        source = BlobSource(
            path=self._url(repository, "blobs", descriptor.digest),
            elsewhere=descriptor.urls,
            what=self._name(repository, descriptor.digest),
            digest=descriptor.digest,
            size=descriptor.size,
            scopes=_pull(repository),
        )
        return download(self._connection, source, offset)

    async def has_blob(self, repository: str, digest: Digest) -> bool:
        ask = Ask(
            "HEAD",
            self._url(repository, "blobs", digest),
            self._name(repository, digest),
            scopes=_push(repository),
            accepted=frozenset((200, 404)),
        )
        return (await self._connection.reply(ask, NO_BODY_MAX)).status == 200

    async def mount_blob(self, repository: str, digest: Digest, from_repository: str) -> bool:
        """Asks the registry to take a blob over from another of its repositories.

        False: the registry does not, and the blob has to be uploaded.
        """
        # Checks the name: it becomes part of a scope, where a blank would begin another scope.
        self._url(from_repository, "blobs", digest)
        query = urlencode({"mount": digest, "from": from_repository})
        ask = Ask(
            "POST",
            f"{self._url(repository, 'blobs', '')}uploads/?{query}",
            self._name(repository, digest),
            scopes=(*_push(repository), *_pull(from_repository)),
            headers={"Content-Length": "0"},
            accepted=frozenset((201, 202, 404, 405)),
        )
        reply = await self._connection.reply(ask, NO_BODY_MAX)
        if reply.status == 202:
            location = reply.headers.get("location")
            if location:
                url = joined(reply.url, location, ask.what)
                await cancel_upload(self._connection, str(url), ask)
        return reply.status == 201

    async def upload_blob(
        self,
        repository: str,
        digest: Digest,
        size: int,
        pieces: Pieces,
    ) -> None:
        """pieces(offset): the blob's bytes from offset on; called again for each attempt.

        Raises VerificationFailed if the registry finds another digest, and every error of `pieces`.
        """
        await upload(
            self._connection,
            Upload(
                f"{self._url(repository, 'blobs', '')}uploads/",
                digest,
                size,
                pieces,
                self._name(repository, digest),
            ),
            _push(repository),
        )

    async def put_manifest(
        self, repository: str, reference: str, media_type: str, data: bytes
    ) -> Digest:
        """Stores a manifest under a tag or its digest; returns the digest of data.

        Raises VerificationFailed if the registry returns another digest, MalformedImage if the
        media type cannot be sent in a header.
        """
        what = self._name(repository, reference)
        if not (media_type.isascii() and media_type.isprintable()):
            raise MalformedImage(f"{what}: {shown(media_type)} is no media type")
        ask = Ask(
            "PUT",
            self._url(repository, "manifests", reference),
            what,
            scopes=_push(repository),
            headers={"Content-Type": media_type},
            body=data,
            accepted=frozenset((200, 201, 202)),
        )
        reply = await self._connection.reply(ask, NO_BODY_MAX)
        digest = Digest.of(data)
        reported = _digest_or_none(_content_digest(reply))
        if reported is not None and reported != digest:
            raise VerificationFailed(f"{what}: pushed {digest}, the registry has {reported}")
        return digest

    async def delete_manifest(self, repository: str, reference: str) -> None:
        """Raises ImageNotFound."""
        ask = Ask(
            "DELETE",
            self._url(repository, "manifests", reference),
            self._name(repository, reference),
            scopes=(f"repository:{repository}:delete",),
            accepted=frozenset((200, 202, 204)),
            missing=ImageNotFound,
        )
        await self._connection.reply(ask, NO_BODY_MAX)

    async def tags(self, repository: str) -> list[Tag]:
        """All tags, in the registry's order.  Raises ImageNotFound."""
        what = self._name(repository, "")
        found: list[Tag] = []
        path = f"{self._url(repository, 'tags', '')}list?n={PAGE}"

        def take(data: bytes) -> None:
            fields = object_of(parse_json(data, what, PAGE_BYTES_MAX), what)
            try:
                found.extend(map(Tag, fields.texts("tags") or ()))
            except ValueError as error:
                raise fields.bad("tags", str(error)) from None
            _count(len(found), TAGS_MAX, "tags", what)

        await self._pages(Ask("GET", path, what, _pull(repository), missing=ImageNotFound), take)
        return found

    async def referrers(
        self, repository: str, digest: Digest, artifact_type: str | None = None
    ) -> list[Descriptor]:
        """The manifests whose subject is digest (signatures, SBOMs).

        artifact_type: return only these.  A registry without the referrers API keeps the manifests
        in an index with the tag `sha256-<hex>`.
        """
        what = f"referrers of {self._name(repository, digest)}"
        query = "?" + urlencode({"artifactType": artifact_type}) if artifact_type else ""
        path = self._url(repository, "referrers", digest) + query
        found: list[Descriptor] = []

        def take(data: bytes) -> None:
            found.extend(parse_index(data, what).manifests)
            _count(len(found), REFERRERS_MAX, "referrers", what)

        try:
            await self._pages(Ask("GET", path, what, _pull(repository), missing=_NoSuchApi), take)
        except _NoSuchApi:
            try:
                take((await self.manifest(repository, digest.replace(":", "-"))).data)
            except ImageNotFound:
                return []
        return [each for each in found if artifact_type in (None, each.artifact_type)]

    async def _pages(self, first: Ask, take: Callable[[bytes], None]) -> None:
        """Calls take(data) with each page; follows `Link: <…>; rel="next"` within the registry.

        `take` may raise MalformedImage; it comes out as RegistryError.
        """
        url: str | None = first.url
        seen: set[str] = set()
        while url is not None:
            if url in seen or len(seen) >= PAGES_MAX:
                raise RegistryError(f"{first.what}: its pages have no end")
            seen.add(url)
            reply = await self._connection.reply(replace(first, url=url), PAGE_BYTES_MAX)
            try:
                take(reply.data)
            except MalformedImage as error:
                raise RegistryError(str(error)) from None
            link = next_link(reply.headers.get_list("link"))
            url = None if link is None else next_page(reply.url, link, first.what)

    def _manifest_ask(self, method: str, repository: str, reference: str) -> Ask:
        return Ask(
            method,
            self._url(repository, "manifests", reference),
            self._name(repository, reference),
            scopes=_pull(repository),
            headers={"Accept": ACCEPT},
            missing=ImageNotFound,
        )

    def _url(self, repository: str, kind: str, reference: str) -> str:
        """Builds every path of this registry.  reference: "" if the caller adds the last part."""
        try:
            name = RepositoryPath(repository)
            last = reference and (_digest_or_none(reference) or Tag(reference))
        except ValueError as error:
            raise RegistryError(f"{self.domain}: {error}") from None
        return f"/v2/{name}/{kind}/{last}"

    def _name(self, repository: str, reference: str) -> str:
        joint = "@" if ":" in reference else ":"
        return f"{self.domain}/{repository}{joint if reference else ''}{reference}"


class _NoSuchApi(ImgmountError):
    """A 404 of the referrers API."""


def _pull(repository: str) -> tuple[str]:
    return (f"repository:{repository}:pull",)


def _push(repository: str) -> tuple[str]:
    return (f"repository:{repository}:pull,push",)


def _count(found: int, limit: int, of_what: str, where: str) -> None:
    if found > limit:
        raise MalformedImage(f"{where}: more than {limit} {of_what}, the limit")


def _media_type(reply: Reply) -> str:
    kind = reply.headers.get("content-type", "").partition(";")[0].strip().lower()
    return shown(str(kind)) if kind.startswith("application/vnd.") else ""


def _content_digest(reply: Reply) -> str:
    return str(reply.headers.get("docker-content-digest", "")).strip()


def _digest_or_none(text: str) -> Digest | None:
    try:
        return Digest(text)
    except ValueError:
        return None
