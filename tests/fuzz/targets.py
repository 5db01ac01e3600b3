"""Law: each function in TARGETS is a fuzz target of the Python code: it takes bytes and returns.
If it raises, a bug is found: the code under test may only raise an ImgmountError whose message is
one printable line.

hunt.py looks for such inputs (atheris); test_targets.py runs every seed and every input that was
found once.  An input is the text itself; only that of `sources` is pieces (native/fuzz/fuzz.h), one
for each file.
"""

from __future__ import annotations

import atexit
import base64
import functools
import gzip
import os
import shutil
import stat
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from tarwriter import TarWriter

from fusemount._native import LayerIndex
from fusemount.cli.template import Map, Nil, Struct, Template
from fusemount.digest import Digest
from fusemount.errors import ImgmountError, MalformedImage, Unauthorized, UsageError
from fusemount.image.changeline import apply_changes
from fusemount.image.fields import object_of, parse_json
from fusemount.image.parse import (
    parse_config,
    parse_docker_manifests,
    parse_index,
    parse_index_or_manifest,
    parse_repositories,
    parse_v1,
)
from fusemount.imagename import parse_name
from fusemount.layer import BlobFile
from fusemount.layer.unpacked import UnpackedLayer
from fusemount.reference import (
    CONTAINERS_STORAGE,
    DOCKER,
    Reference,
    normalised_name,
    parse_reference,
    same_name,
    tagged_name,
)
from fusemount.registry import credentials, replies
from fusemount.registry.challenge import parse_challenges
from fusemount.rootfs.base import recorded_base
from fusemount.rootfs.heldmarks import format_held, parse_held, parse_times
from fusemount.rootfs.objectmarks import OVERRIDE_STAT
from fusemount.rootfs.upper import Upper
from fusemount.sandbox.command import resolve_user
from fusemount.settings import ImageOptions
from fusemount.sources import docker_archive, oci
from fusemount.sources.containers_storage import open_containers_storage
from fusemount.sources.docker_storage import open_docker
from fusemount.sources.image import Candidate
from fusemount.sources.medium import Archive, Directory

SIZE_MAX = 256 << 20  # the limit of bytes that a short text may unpack to


@contextmanager
def refusing(*kinds: type[ImgmountError]) -> Iterator[None]:
    """Allows errors of these kinds whose message is one printable line."""
    try:
        yield
    except kinds as error:
        message = str(error)
        assert message and message.isprintable(), repr(message)


@functools.cache
def scratch() -> Path:
    path = Path(tempfile.mkdtemp(prefix="imgmount-fuzz-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


def text_of(data: bytes) -> str:
    """The text that a command-line argument of these bytes is."""
    return data.decode("utf-8", "surrogateescape")


# ---- documents of images ---------------------------------------------------------------------


def documents(data: bytes) -> None:
    """An image's config, manifest, index; docker's manifest.json, repositories and old json."""
    for parse in (
        parse_config,
        parse_index_or_manifest,
        parse_index,
        parse_docker_manifests,
        parse_repositories,
        parse_v1,
    ):
        with refusing(MalformedImage):
            cast("Callable[[bytes, str], object]", parse)(data, "document")


def tarsplit(data: bytes) -> None:
    """The lines of a tar-split file.  If the first byte is 0, the rest is the compressed file."""
    tree, split = scratch() / "tree", scratch() / "split"
    if not tree.exists():
        tree.mkdir()
        (tree / "f").write_bytes(b"contents")
        (tree / "l").symlink_to("f")
        (tree / "d").mkdir()
    split.write_bytes(data[1:] if data[:1] == b"\0" else gzip.compress(data, 0))
    layer = UnpackedLayer(Digest.of(b""), 0, tree, split, "layer 1")
    size = 0
    with refusing(ImgmountError):
        for piece in layer.tar():
            size += len(piece)
            assert size < SIZE_MAX


_PIECE = struct.Struct("<BH")
IDENT = "ab" * 32
_CONFIG_KEY = "=" + base64.b64encode(f"sha256:{IDENT}".encode()).decode()
_CHAIN = f"image/overlay2/layerdb/sha256/{IDENT}"
FILES = (
    "oci-layout",
    "index.json",
    f"blobs/sha256/{IDENT}",
    f"blobs/sha256/{'cd' * 32}",
    "manifest.json",
    "repositories",
    f"{IDENT}/json",
    "overlay-images/images.json",
    "overlay-layers/layers.json",
    f"overlay-images/{IDENT}/manifest",
    f"overlay-images/{IDENT}/{_CONFIG_KEY}",
    "image/overlay2/repositories.json",
    f"image/overlay2/imagedb/content/sha256/{IDENT}",
    f"{_CHAIN}/diff",
    f"{_CHAIN}/size",
    f"{_CHAIN}/cache-id",
)


def _path_of(number: int) -> Path:
    return scratch() / "sources" / FILES[number % len(FILES)]


@functools.cache
def _make_sources() -> Path:
    root = scratch() / "sources"
    for number in range(len(FILES)):
        _path_of(number).parent.mkdir(parents=True, exist_ok=True)
    for tree in (f"overlay/{IDENT}/diff", f"overlay2/{IDENT}/diff"):
        (root / tree).mkdir(parents=True)
    return root


def _archive(root: Path, written: list[Path]) -> Archive:
    """The same files in a tar."""
    tar, path = TarWriter(), scratch() / "sources.tar"
    for each in written:
        tar.file(str(each.relative_to(root)), each.read_bytes())
    path.write_bytes(tar.tar())
    with open(path, "rb") as file:
        index = LayerIndex.scan(file.fileno(), 0, path.stat().st_size)
    return Archive("archive", BlobFile(path), index)


def _open_all(candidates: Callable[[], list[Candidate]]) -> None:
    with refusing(ImgmountError):
        for candidate in candidates():
            with refusing(ImgmountError):
                candidate.platform()
            with refusing(ImgmountError):
                candidate.open(candidate.names)


def sources(data: bytes) -> None:
    """Files of layouts, archives and the stores of docker and podman: piece kind N is FILES[N]."""
    root, at, written = _make_sources(), 0, []
    while at + _PIECE.size <= len(data):
        number, length = _PIECE.unpack_from(data, at)
        at += _PIECE.size
        _path_of(number).write_bytes(data[at : at + length])
        written.append(_path_of(number))
        at += length
    options = ImageOptions(verify=False)
    layout, archive = Directory(root), _archive(root, written)
    _open_all(lambda: oci.candidates(layout, options))
    _open_all(lambda: oci.candidates(archive, options))
    _open_all(lambda: docker_archive.candidates(archive, options))
    layout.close()
    for file in archive.files():
        file.close()
    with refusing(ImgmountError):
        open_containers_storage(Reference(CONTAINERS_STORAGE, root, "a"), options)
    with refusing(ImgmountError):
        open_docker(Reference(DOCKER, root, None), options)
    for path in written:
        path.unlink(missing_ok=True)


# ---- names -----------------------------------------------------------------------------------


def references(data: bytes) -> None:
    """An image reference on a command line.  Its text form is parsed to the same reference."""
    text = text_of(data)
    for store in (None, Path("/store")):
        with refusing(UsageError):
            found = parse_reference(text, lambda path: path == Path("/a:b"), store)
            again = parse_reference(found.spelled, found.path.__eq__, store)
            assert again == found, (found, again)
            assert found.absolute().absolute() == found.absolute()
    with refusing(UsageError):
        name = parse_name(text)
        assert parse_name(str(name)) == name
        assert name.reads_as_id or parse_name(name.familiar) == name, name
        assert parse_name(str(name.tagged())).tagged() == name.tagged()
    with refusing(UsageError):
        tagged = tagged_name(text)
        assert tagged_name(tagged) == tagged and same_name(tagged, normalised_name(tagged))


def templates(data: bytes) -> None:
    """A template of `--format`, with a value of every kind."""
    value: dict[str, Any] = {
        "Name": "a:b",
        "Size": 7,
        "Flag": True,
        "None": None,
        "List": ["x", 2],
        "Nil": Nil(),
        "Labels": Map({"k": "v"}),
        "Config": Struct({"User": "u"}, {"Cmd": None}),
    }
    with refusing(UsageError):
        Template(text_of(data)).fill(Struct(value, {}))


def users(data: bytes) -> None:
    """The user of an image's program: USER[:GROUP], NUL, /etc/passwd, NUL, /etc/group."""
    user, passwd, group = (data.decode("utf-8", "replace").split("\0") + ["", "", ""])[:3]
    with refusing(UsageError):
        who = resolve_user(user, passwd, group)
        assert max(who.uid, who.gid, *who.groups) < 2**31, who
    with refusing(UsageError):
        apply_changes({}, [user])


# ---- registries ------------------------------------------------------------------------------


def challenges(data: bytes) -> None:
    """Headers of a registry, as httpx returns them, and the body of an error."""
    text = data.decode("latin-1")
    for challenge in parse_challenges([text]):
        assert challenge.scheme == challenge.scheme.lower()
    after = replies.retry_after(text, 0.0)
    assert after is None or after >= 0
    replies.used_up(text, "0;w=9")
    replies.used_up("1;w=9", text)
    replies.content_range(text)
    replies.uploaded(text)
    replies.next_link([text])
    for line in (replies.error_text(data), replies.clean(text)):
        assert not line or line.isprintable(), repr(line)


def auths(data: bytes) -> None:
    """A file of credentials, and the answer of a helper."""
    with refusing(Unauthorized):
        credentials._parse_helper_output(0, data, b"", "helper")
    with refusing(Unauthorized):
        credentials._parse_helper_output(1, data, data, "helper")
    with refusing(MalformedImage):
        fields = object_of(parse_json(data, "auth.json"), "auth.json")
        document = {k: v for k, v in fields.document.items() if not k.startswith("cred")}
        credentials._helper("docker.io", "a/b", fields)
        for domain in ("docker.io", "localhost:5000"):
            try:  # without a helper, it never waits
                credentials._of_file(domain, "a/b", object_of(document, "auth.json")).send(None)
            except StopIteration as ended:
                found = ended.value
                assert found is None or (found.user.isprintable() and found.basic)
    credentials.parse_credentials(text_of(data))


# ---- marks of an upper -----------------------------------------------------------------------


class _Marked:
    """The methods of an Upper that reading its marks needs."""

    fd = -1
    prefix = b"user.overlay."
    privileged = False

    def __init__(self, data: bytes) -> None:
        self._data = data

    def mark(self, *_: object) -> bytes:
        return self._data


def uppermarks(data: bytes) -> None:
    """Marks of an upper that Python reads; fuzz_marks.c has those that C reads."""
    held = parse_held(data)
    if held is not None:
        assert parse_held(format_held(held)) == held
        assert 0 <= held.mode <= 0o7777
    parse_times(data)
    upper, empty = cast(Upper, _Marked(data)), os.stat_result([stat.S_IFREG | 0o600] + 9 * [0])
    recorded_base(upper)
    for name in (OVERRIDE_STAT, b"user.overlay.imgmount.special"):
        kind, rdev = Upper.kind_of(upper, empty, {name: data})
        assert (stat.S_ISREG(kind) and not rdev) or 0 <= rdev < 1 << 32
        owner = Upper.owner_of(upper, empty, {name: data})
        assert max(owner.uid, owner.gid) < 2**32 - 1 and owner.mode <= 0o7777


TARGETS: dict[str, Callable[[bytes], None]] = {
    each.__name__: each
    for each in (
        documents,
        tarsplit,
        sources,
        references,
        templates,
        users,
        challenges,
        auths,
        uppermarks,
    )
}
