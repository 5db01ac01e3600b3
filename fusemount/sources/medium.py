"""Law: finds an image's files by name, in a directory or in a tar; it does not interpret them.

A tar may have a name twice: the last member counts, as when it is unpacked.  Links in a tar are
followed only inside the tar.
"""

from __future__ import annotations

import os
import posixpath
from enum import Enum, auto
from functools import partial
from pathlib import Path
from typing import Protocol

from fusemount._native import LayerIndex
from fusemount.beneath import open_beneath, open_in_root
from fusemount.dataclass import dataclass
from fusemount.errors import ImageNotFound, MalformedImage
from fusemount.image.fields import shown
from fusemount.layer import BlobFile
from fusemount.layer.decode import read_at
from fusemount.settings import ImageOptions

MEMBERS_MAX = 100_000  # of a tar; one with more is no image archive
READ_BYTES_MAX = 256 << 20  # of JSON, from one archive or store: 64 configs at the limit
READ_DOCUMENTS_MAX = 200_000  # a document that is read twice counts twice
LINKS_MAX = 40  # as in the kernel: a longer chain of links counts as a loop


@dataclass(frozen=True)
class Stretch:
    """The bytes of the file from offset to offset + size."""

    file: BlobFile
    offset: int
    size: int


@dataclass
class DocumentBudget:
    """Limits what is read of one medium, whose lists may name one document again and again."""

    size: int = 0
    documents: int = 0

    def spend(self, size: int, where: str) -> None:
        """Counts a document of that size.  Raises MalformedImage beyond the limits."""
        self.size += size
        self.documents += 1
        if self.size > READ_BYTES_MAX or self.documents > READ_DOCUMENTS_MAX:
            raise MalformedImage(
                f"{where}: with it more than {READ_BYTES_MAX >> 20} MiB of JSON, or "
                f"{READ_DOCUMENTS_MAX} documents, were read for one image, the limit"
            )


class Medium(Protocol):
    """Holds the files of an image by name.

    label: its name in messages.  files(): to be closed with the image.
    """

    @property
    def budget(self) -> DocumentBudget: ...

    @property
    def label(self) -> str: ...
    def find(self, name: str) -> Stretch | None:
        """The stretch that is the regular file of that name; None if there is none."""
        ...

    def files(self) -> list[BlobFile]: ...


def read_document(medium: Medium, name: str, limit: int) -> bytes | None:
    """All bytes of a small file; None if there is none.  Raises MalformedImage beyond limit."""
    stretch = medium.find(name)
    if stretch is None:
        return None
    where = f"{medium.label}: {shown(name)}"
    if stretch.size > limit:
        raise MalformedImage(f"{where}: {stretch.size} bytes of JSON, the limit is {limit}")
    medium.budget.spend(stretch.size, where)
    data = read_at(stretch.file.fd, stretch.offset, stretch.size, where)
    if len(data) < stretch.size:
        raise MalformedImage(f"{where}: cut off")
    stretch.file.release()
    return data


class Links(Enum):
    """How symlinks in an image's directory are resolved.

    FOLLOWED: they may lead anywhere, because rules_oci and nix build layouts of symlinks.  It is
    safe with verification: a file with another digest is not shown.
    INSIDE: as if the directory were "/".  Without verification, a link out of it could show the
    directory's owner a file that only the caller may read.
    NONE: they are not followed.  Our own store has none, nor have docker's and podman's on the way
    to what is read of them.
    """

    FOLLOWED = auto()
    INSIDE = auto()
    NONE = auto()


def links_of(options: ImageOptions) -> Links:
    return Links.FOLLOWED if options.verify else Links.INSIDE


class Directory:
    """An image's directory."""

    def __init__(self, path: Path, links: Links = Links.FOLLOWED) -> None:
        self._path, self._links = path, links
        self.budget = DocumentBudget()
        self._files: dict[str, BlobFile] = {}

    def _file(self, name: str) -> BlobFile:
        return BlobFile(self._path / name, one_of_many=True, open_it=partial(self._open, name))

    def _open(self, name: str, flags: int) -> int:
        """Follows no magic link of /proc: it may lead into a mount namespace of another user, whose
        file systems may never answer."""
        outside = self._links is Links.FOLLOWED
        place = "/" if outside else self._path
        resolve = open_beneath if self._links is Links.NONE else open_in_root
        top = os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return resolve(top, os.path.abspath(self._path / name) if outside else name, flags)
        finally:
            os.close(top)

    @property
    def label(self) -> str:
        return str(self._path)

    def find(self, name: str) -> Stretch | None:
        path = self._path / name
        if name.startswith("/") or ".." in Path(name).parts or "\0" in name:
            return None
        file = self._files.setdefault(name, self._file(name))
        try:
            size = file.size
            file.release()
            return Stretch(file, 0, size)
        except ImageNotFound:
            if self._links is Links.INSIDE and path.is_symlink():
                raise MalformedImage(
                    f"{path}: a symlink that leads out of the layout; with --no-verify nothing "
                    "outside is read"
                ) from None
            return None

    def files(self) -> list[BlobFile]:
        return list(self._files.values())

    def close(self) -> None:
        for file in self._files.values():
            file.close()


class Archive:
    """An image's tar, uncompressed, scanned."""

    def __init__(self, label: str, file: BlobFile, index: LayerIndex) -> None:
        """Raises ImageNotFound if there are too many members: their names are in memory at once."""
        if len(index) > MEMBERS_MAX:
            raise ImageNotFound(
                f"{label}: there is no image in it: {len(index)} members, an archive of images has "
                f"at most {MEMBERS_MAX}"
            )
        self._label = label
        self.budget = DocumentBudget()
        self._file = file
        self._index = index
        self._members = {index.member(i).path: i for i in range(len(index))}

    @property
    def label(self) -> str:
        return self._label

    def __contains__(self, name: str) -> bool:
        return name.encode() in self._members

    def find(self, name: str) -> Stretch | None:
        path = posixpath.normpath(name).encode("utf-8", "surrogateescape").lstrip(b"/")
        for _ in range(LINKS_MAX):
            at = self._members.get(path)
            if at is None:
                return None
            member = self._index.member(at)
            if member.kind == "hardlink":
                path = member.link
            elif member.kind == "symlink":
                path = _resolved(path, member.link)
            elif member.kind == "file":
                return self._stretch(name, member.size, member.extents)
            else:
                return None
        raise MalformedImage(f"{self._label}: {shown(name)}: a loop of links")

    def _stretch(self, name: str, size: int, extents: tuple[tuple[int, int, int], ...]) -> Stretch:
        if size == 0:
            return Stretch(self._file, 0, 0)
        if len(extents) != 1 or extents[0][:2] != (0, size):
            raise MalformedImage(
                f"{self._label}: {shown(name)}: stored with holes, which is not supported"
            )
        return Stretch(self._file, extents[0][2], size)

    def files(self) -> list[BlobFile]:
        return [self._file]


def _resolved(path: bytes, target: bytes) -> bytes:
    """A symlink's target as a name in the archive; `..` stops at its root."""
    joined = posixpath.join(b"/" + posixpath.dirname(path), target)
    return posixpath.normpath(joined).lstrip(b"/")
