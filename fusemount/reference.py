r"""Law: parses references: how an image is named on a command line.  No I/O: the caller passes a
function that checks whether a file exists.

    FILE                        the contents of FILE decide its format
    FILE:NAME[:TAG]             one image of several
    docker-archive:FILE[:REF]   oci:DIR[:REF]   oci-archive:FILE[:REF]   tar:FILE
    dir:DIR[:DIR...]            unpacked layers, the topmost first; a colon in a name is `\:`
    docker:NAME                 an image of docker on this machine; docker:[DATA-ROOT]NAME
    containers-storage:NAME     one of podman, buildah, skopeo; [DRIVER@ROOT+RUNROOT]NAME
    store:[ROOT]NAME            one of the store at ROOT; NAME alone, if no file has that name

FILE may contain colons: the longest prefix that exists is the file.  A transport comes before a
file of that name, which can still be given as `./oci:file`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from fusemount.compression import TAR_SUFFIXES
from fusemount.dataclass import dataclass
from fusemount.errors import UsageError
from fusemount.imagename import COMPONENT, DOCKER_HUB, is_registry, parse_name

# github.com/distribution/reference, regexp.go
_DOMAIN = r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)(?:\.[A-Za-z0-9][A-Za-z0-9-]*)*(?::[0-9]+)?"
_TAGGED = re.compile(
    rf"(?:{_DOMAIN}/)?{COMPONENT}(?:/{COMPONENT})*(?::([A-Za-z0-9_][\w.-]{{0,127}}))?"
)

_DRIVER = re.compile(r"[A-Za-z0-9_-]+")

DIRECTORIES = "dir"
DOCKER, CONTAINERS_STORAGE = "docker", "containers-storage"
FOREIGN_STORES = (DOCKER, CONTAINERS_STORAGE)  # stores of other programs; layers are unpacked
STORE = "store"
TRANSPORTS = ("docker-archive", "oci", "oci-archive", "tar", DIRECTORIES, STORE, *FOREIGN_STORES)
NOT_GIVEN = Path("")  # the root of a foreign store is the one in that program's settings
_SHOWN_MAX = 4  # of the directories, in one message


@dataclass(frozen=True)
class Reference:
    """A parsed image reference.

    transport: one of TRANSPORTS, or None if the contents decide.
    path: the file or directory, or a store's root; it may not exist.
    name: the image in it, as written (`ubuntu`, `ubuntu:22.04`, `x@sha256:...`); None: the only
    one.
    more: of `dir`, the directories below path, the topmost first; of a store, further stores that
    are only read.
    driver: of FOREIGN_STORES only, "" if the store decides; their path may be NOT_GIVEN.
    """

    transport: str | None
    path: Path
    name: str | None
    more: tuple[Path, ...] = ()
    driver: str = ""

    def __str__(self) -> str:
        rest = 1 + len(self.more) - _SHOWN_MAX
        if rest > 0:
            return f"{replace(self, more=self.more[: _SHOWN_MAX - 1]).spelled} and {rest} more"
        return self.spelled

    @property
    def spelled(self) -> str:
        """The reference as text that parse_reference can parse; str() may omit some directories."""
        if self.transport == DIRECTORIES:
            paths = (re.sub(r"([\\:])", r"\\\1", str(p)) for p in (self.path, *self.more))
            return "dir:" + ":".join(paths)
        if self.transport in FOREIGN_STORES:
            return f"{self.transport}:{self._location}{self.name or ''}"
        if self.transport == STORE:
            return f"store:[{self.path}]{self.name}"
        text = f"{self.path}" + (f":{self.name}" if self.name else "")
        if self.transport:
            return f"{self.transport}:{text}"
        return f"./{text}" if text.partition(":")[0] in TRANSPORTS else text

    @property
    def _location(self) -> str:
        """`[DRIVER@ROOT:OPTIONS]`, or "" for NOT_GIVEN."""
        if self.path == NOT_GIVEN:
            return ""
        driver = f"{self.driver}@" if self.driver else ""
        options = ",".join(
            f"{self.driver or 'overlay'}.imagestore={location}" for location in self.more
        )
        return f"[{driver}{self.path}{':' if options else ''}{options}]"

    def absolute(self) -> Reference:
        if self.transport in FOREIGN_STORES:
            return self  # its paths are absolute
        path, *more = (Path(os.path.abspath(p)) for p in (self.path, *self.more))
        return replace(self, path=path, more=tuple(more))


def parse_reference(
    text: str, exists: Callable[[Path], bool], store: Path | None = None
) -> Reference:
    """Raises UsageError for text that is no reference; a missing file is no error here.

    store: the root of the store for names that are no file.
    """
    transport, colon, rest = text.partition(":")
    if "\0" in text:
        raise UsageError("an image reference cannot hold a NUL byte")
    if colon and transport == DIRECTORIES:
        return directories_reference(rest)
    if colon and transport in FOREIGN_STORES:
        return foreign_reference(transport, rest)
    if colon and transport == STORE:
        return _stored(text, rest, store)
    if colon and transport in TRANSPORTS:
        path, name, found = _split(rest, exists) if transport != "tar" else (rest, None, True)
        if found or not _split(text, exists)[2]:
            if not path:
                raise UsageError(f"{text!r} names no file: expected {transport}:PATH")
            return Reference(transport, Path(path), name)
    path, name, found = _split(text, exists)
    if not found and store is not None and _is_name(text):
        return Reference(STORE, store, text)
    if not path:
        raise UsageError(f"{text!r} names no image file")
    return Reference(None, Path(path), name)


def _stored(text: str, rest: str, store: Path | None) -> Reference:
    """rest: the text after `store:`."""
    root, bracket, name = rest[1:].partition("]") if rest.startswith("[") else ("", "]", rest)
    if not bracket or not name or not (root or store):
        raise UsageError(f"{text!r}: expected store:NAME or store:[ROOT]NAME")
    return Reference(STORE, Path(root) if root else store or Path(), name)


def _is_name(text: str) -> bool:
    """Whether the text is a name of an image or the start of an ID, and not like a file name."""
    try:
        parse_name(text)
    except UsageError:
        return re.fullmatch(r"(?:sha256:)?[0-9a-f]{2,64}", text) is not None
    return not text.endswith(TAR_SUFFIXES)


def directories_reference(text: str) -> Reference:
    r"""Parses `DIR[:DIR...]`, as lowerdir= of overlayfs: `\` quotes the next character.

    Raises UsageError for an empty name.
    """
    names, escaped = [""], False
    for c in text:
        if escaped or c not in "\\:":
            names[-1] += c
            escaped = False
        elif c == "\\":
            escaped = True
        else:
            names.append("")
    if not all(names):
        raise UsageError(f"{text!r}: an empty name of a directory (data-only layers are not known)")
    path, *more = map(Path, names)
    return Reference(DIRECTORIES, path, None, tuple(more))


def foreign_reference(transport: str, text: str) -> Reference:
    """Parses `[DRIVER@ROOT+RUNROOT:OPTION,...]NAME`; all but ROOT may be missing, as in
    containers/image (storage_transport.go).  docker has neither RUNROOT nor options.

    Raises UsageError.
    """
    if transport == DOCKER and text.startswith("//"):
        raise UsageError(
            f"{'docker:' + text!r} is in a registry (`imgmount pull` brings it here); docker:NAME "
            "is an image that docker has on this machine"
        )
    if not text.startswith("["):
        return Reference(transport, NOT_GIVEN, text or None)
    inside, closed, name = text[1:].partition("]")
    driver, at, location = ("", "", inside) if inside.startswith("/") else inside.partition("@")
    more: list[Path] = []
    if transport == CONTAINERS_STORAGE:
        location, _, options = location.partition(":")
        location = location.partition("+")[0]
        words = (option.partition("=") for option in options.split(","))
        more = [Path(value) for key, _, value in words if key.endswith(".imagestore") and value]
    paths = (Path(location), *more)
    named = _DRIVER.fullmatch(driver) if at else True
    if not closed or not named or not all(path.is_absolute() for path in paths):
        spelled = f"{transport}:{text}"
        raise UsageError(f"{spelled!r}: expected [DRIVER@ROOT]NAME, ROOT an absolute path")
    return Reference(transport, Path(location), name or None, tuple(more), driver)


def _split(text: str, exists: Callable[[Path], bool]) -> tuple[str, str | None, bool]:
    """(path, name, whether path exists); if no prefix exists, the first colon ends the path."""
    for cut in _cuts(text):
        if text[:cut] and exists(Path(text[:cut])):
            return text[:cut], text[cut + 1 :] or None, True
    path, _, name = text.partition(":")
    return path, name or None, False


def _cuts(text: str) -> Iterator[int]:
    cut = len(text)
    while cut >= 0:
        yield cut
        cut = text.rfind(":", 0, cut)


def normalised_name(name: str) -> str:
    """The full name for a short one, as docker completes it.

    `ubuntu` is `docker.io/library/ubuntu:latest`, `a/b:1` is `docker.io/a/b:1` (imagename.py).  The
    name need not be valid.
    """
    first, slash, rest = name.partition("/")
    domain, path = (first, rest) if slash and is_registry(first) else (DOCKER_HUB, name)
    if domain == "index.docker.io":
        domain = DOCKER_HUB
    if domain == DOCKER_HUB and "/" not in path:
        path = "library/" + path
    if "@" not in path and ":" not in path:
        path += ":latest"
    return f"{domain}/{path}"


def tagged_name(text: str) -> str:
    """NAME:TAG of a new image; the tag is `latest` if none is given. Raises UsageError."""
    found = _TAGGED.fullmatch(text) if text.isascii() and len(text) <= 255 else None
    if found is None:
        raise UsageError(f"{text!r} is no name for an image: NAME[:TAG], the name in lower case")
    return text if found[1] else f"{text}:latest"


def same_name(wanted: str, name: str) -> bool:
    """Whether a user who writes `wanted` means an image called `name`.

    podman and buildah call a local image `localhost/x`, and their users write `x`.
    """
    full = normalised_name(name)
    return full in (normalised_name(wanted), normalised_name("localhost/" + wanted))
