"""Law: parses and writes names of images in registries and stores, as docker does; no I/O.

    [DOMAIN[:PORT]/]PATH[:TAG][@DIGEST]

A first component with a dot, a colon or capitals, or `localhost`, is the registry's domain.
Otherwise the domain is docker.io (or another default that the user has set), and a path on
docker.io without a slash is below `library/` (github.com/distribution/reference,
ParseNormalizedNamed).
"""

from __future__ import annotations

import re
from dataclasses import replace

from fusemount.dataclass import dataclass
from fusemount.digest import Digest
from fusemount.errors import UsageError

DOCKER_HUB = "docker.io"
LATEST = "latest"
NAME_MAX = 255  # characters of domain and path; reference.go, NameTotalLengthMax

# github.com/distribution/reference, regexp.go
COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]+\])(?::[0-9]+)?"
_PATH = re.compile(rf"{COMPONENT}(?:/{COMPONENT})*")
_IS_DOMAIN = re.compile(_DOMAIN)
TAG_MAX = 128
_TAG = re.compile(rf"[A-Za-z0-9_][A-Za-z0-9_.-]{{0,{TAG_MAX - 1}}}")
_ID = re.compile(r"[0-9a-f]{64}")


class RepositoryPath(str):
    """The path of a repository, without the domain, checked when it is made: `library/busybox`.

    A registry's URLs contain it, so it has neither `..` nor `?`.  Raises ValueError.
    """

    __slots__ = ()

    def __new__(cls, text: str) -> RepositoryPath:
        if len(text) > NAME_MAX or not _PATH.fullmatch(text):
            raise ValueError(f"{shortened(text)} is no repository's name")
        return super().__new__(cls, text)


class Tag(str):
    """A tag, checked when it is made.  Raises ValueError."""

    __slots__ = ()

    def __new__(cls, text: str) -> Tag:
        if not _TAG.fullmatch(text):
            raise ValueError(
                f"{shortened(text)} is no tag: letters, digits, _ . - and at most {TAG_MAX}"
            )
        return super().__new__(cls, text)


@dataclass(frozen=True)
class ImageName:
    """A valid and complete name; tag and digest may both be missing.

    All components are checked when it is made; raises ValueError.
    """

    domain: str
    path: str
    tag: str | None = None
    digest: Digest | None = None

    def __post_init__(self) -> None:
        if not _IS_DOMAIN.fullmatch(self.domain):
            raise ValueError(f"{shortened(self.domain)} is no registry")
        object.__setattr__(self, "path", RepositoryPath(self.path))
        if self.tag is not None:
            object.__setattr__(self, "tag", Tag(self.tag))
        if self.digest is not None:
            object.__setattr__(self, "digest", Digest(self.digest))

    @property
    def repository(self) -> str:
        return f"{self.domain}/{self.path}"

    @property
    def familiar_repository(self) -> str:
        """The short form that docker prints: without `docker.io/` and the `library/` after it,
        unless the rest would be parsed as a name of another registry."""
        first, slash, _ = self.path.partition("/")
        if self.domain != DOCKER_HUB or (slash and is_registry(first)):
            return self.repository
        return self.path.removeprefix("library/") if self.path.count("/") == 1 else self.path

    @property
    def familiar(self) -> str:
        return self.familiar_repository + self._rest

    def __str__(self) -> str:
        return self.repository + self._rest

    @property
    def reads_as_id(self) -> bool:
        """Whether the name looks like the start of an ID (`sha256:abc`) and is taken for one."""
        return self.familiar_repository == "sha256"

    @property
    def _rest(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return tag + (f"@{self.digest}" if self.digest else "")

    @property
    def reference(self) -> str:
        """The reference in a request to a registry: the digest if there is one, else the tag."""
        return self.digest or self.tag or LATEST

    def tagged(self) -> ImageName:
        """The name with the default tag, if it has neither tag nor digest."""
        return self if self.tag or self.digest else replace(self, tag=LATEST)

    def with_digest(self, digest: Digest) -> ImageName:
        """`repository@digest`, as RepoDigests list it."""
        return ImageName(self.domain, self.path, None, digest)


def parse_name(text: str, default_domain: str = DOCKER_HUB) -> ImageName:
    """Raises UsageError for text that is no name, with the reason."""
    name, at, digest_text = text.partition("@")
    digest = None
    if at:
        try:
            digest = Digest(digest_text)
        except ValueError:
            raise UsageError(
                f"{text!r}: not a digest behind the @ (sha256 and 64 digits)"
            ) from None
    head, slash, last = name.rpartition("/")
    last, colon, tag = last.partition(":")
    repository = head + slash + last
    if colon and not _TAG.fullmatch(tag):
        raise UsageError(
            f"{text!r}: {tag!r} is no tag: letters, digits, _ . - and at most {TAG_MAX}"
        )
    first, slash, rest = repository.partition("/")
    if slash and is_registry(first):
        domain, path = "docker.io" if first == "index.docker.io" else first, rest
    else:
        domain, path = default_domain, repository
    if domain == DOCKER_HUB and "/" not in path:
        path = "library/" + path
    if not _IS_DOMAIN.fullmatch(domain):
        raise UsageError(f"{text!r}: {domain!r} is no registry")
    if _ID.fullmatch(repository) or not _PATH.fullmatch(path):
        lower = " (it must be in lower case)" if path != path.lower() else ""
        raise UsageError(f"{text!r} is no name of an image{lower}")
    if len(domain) + 1 + len(path) > NAME_MAX:
        raise UsageError(f"{text[:40]!r}...: longer than {NAME_MAX} characters")
    return ImageName(domain, path, tag or None, digest)


def shortened(text: str) -> str:
    """Untrusted text in quotes and cut, for a message."""
    return repr(text[:100])


def is_registry(first: str) -> bool:
    return "." in first or ":" in first or first == "localhost" or first != first.lower()
