"""Law: where an image's blobs stand by name: in a directory or in a tar.  Nothing is interpreted.

A tar may repeat a name (the last wins, as when unpacked) and may hold links, which are followed
inside the tar alone.
"""

from __future__ import annotations

import posixpath
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fusemount._native import LayerIndex
from fusemount.errors import ImageNotFound, MalformedImage
from fusemount.image.fields import shown
from fusemount.layer import BlobFile
from fusemount.layer.decode import read_at

READ_BYTES_MAX = 1 << 30  # of JSON, from one archive or store: some 10 s of work
READ_DOCUMENTS_MAX = 200_000  # one may be read several times
LINKS_MAX = 40  # as the kernel: a chain of links longer than this is a loop


@dataclass(frozen=True)
class Stretch:
    """size bytes from offset of file."""

    file: BlobFile
    offset: int
    size: int


@dataclass
class Budget:
    """What was read of one medium, whose lists may name the same document again and again."""

    size: int = 0
    documents: int = 0

    def spend(self, size: int, where: str) -> None:
        """Raises MalformedImage."""
        self.size += size
        self.documents += 1
        if self.size > READ_BYTES_MAX or self.documents > READ_DOCUMENTS_MAX:
            raise MalformedImage(
                f"{where}: with it more than {READ_BYTES_MAX >> 20} MiB of JSON, or "
                f"{READ_DOCUMENTS_MAX} documents, were read for one image, the limit"
            )


class Medium(Protocol):
    """label names it in messages; files() are closed with the image."""

    @property
    def budget(self) -> Budget: ...

    @property
    def label(self) -> str: ...
    def find(self, name: str) -> Stretch | None:
        """Where the regular file of that name stands, None: not there."""
        ...

    def files(self) -> list[BlobFile]: ...


def read_document(medium: Medium, name: str, limit: int) -> bytes | None:
    """A whole small file, None: not there.  Raises MalformedImage beyond limit bytes."""
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


class Directory:
    """An image's directory.  Its symlinks are followed: rules_oci and nix build layouts of them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.budget = Budget()
        self._files: dict[str, BlobFile] = {}

    @property
    def label(self) -> str:
        return str(self._path)

    def find(self, name: str) -> Stretch | None:
        path = self._path / name
        if name.startswith("/") or ".." in Path(name).parts or "\0" in name:
            return None
        file = self._files.setdefault(name, BlobFile(path, one_of_many=True))
        try:
            return Stretch(file, 0, path.stat().st_size if path.is_file() else file.size)
        except ImageNotFound:
            return None

    def files(self) -> list[BlobFile]:
        return list(self._files.values())

    def close(self) -> None:
        for file in self._files.values():
            file.close()


class Archive:
    """An image's tar, uncompressed, scanned."""

    def __init__(self, label: str, file: BlobFile, index: LayerIndex) -> None:
        self._label = label
        self.budget = Budget()
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
