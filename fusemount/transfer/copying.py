"""Law: copies an image between registries, stores, archives and layouts.

    docker://NAME                                   a registry
    store:[ROOT]NAME, NAME                          a store
    docker:NAME, containers-storage:NAME            stores of other programs: only as a source
    oci:DIR[:NAME]  oci-archive:FILE[:NAME]  docker-archive:FILE[:NAME]

If neither end is a store, a store is made between them and removed afterwards.  So every copy is a
pull or load and then a save or push, and has their verification.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fusemount.beneath import own_directory
from fusemount.budget import Budget
from fusemount.dataclass import dataclass
from fusemount.digest import Digest
from fusemount.errors import ImageNotFound, UsageError
from fusemount.imagename import DOCKER_HUB, ImageName, parse_name
from fusemount.layer.progress import SilentProgress
from fusemount.ownfile import is_abandoned
from fusemount.reference import FOREIGN_STORES, STORE, Reference
from fusemount.settings import UNPACK_LIMIT, Directories, ImageOptions, Platform, UnpackLimit
from fusemount.sources.opening import open_image, open_medium
from fusemount.sources.writing import Target
from fusemount.store import Store, StoredImage
from fusemount.transfer.archiveload import load_medium, load_opened
from fusemount.transfer.pull import PullOptions, pull
from fusemount.transfer.push import PushOptions, push
from fusemount.transfer.reports import Transfers
from fusemount.transfer.save import save

REGISTRY = "docker://"
_COPY = "copy-"
FORMS = ("oci", "oci-archive", "docker-archive")


@dataclass(frozen=True)
class End:
    """A source or target of a copy.

    name: in a registry (with target: the name in the archive).  reference: a store, or a medium
    that is read.  target: an archive or layout to write.
    """

    name: ImageName | None = None
    reference: Reference | None = None
    target: Target | None = None


@dataclass(frozen=True)
class CopyOptions:
    """default_domain: for names in stores that are given without a domain."""

    pull: PullOptions
    push: PushOptions
    default_domain: str = DOCKER_HUB
    unpack: UnpackLimit = UNPACK_LIMIT

    @property
    def platform(self) -> Platform | None:
        return self.pull.platform


def source_end(text: str, refer: Callable[[str], Reference], default_domain: str) -> End:
    """refer: parses a text that names no registry.  Raises UsageError."""
    if text.startswith(REGISTRY):
        return End(name=parse_name(text.removeprefix(REGISTRY), default_domain))
    return End(reference=refer(text))


def target_end(text: str, store: Path, default_domain: str) -> End:
    """store: the root for names without one.  Raises UsageError."""
    if text.startswith(REGISTRY):
        name = parse_name(text.removeprefix(REGISTRY), default_domain)
        _check_no_digest(text, name)
        return End(name=name)
    transport, colon, rest = text.partition(":")
    if colon and transport in FORMS:
        path, _, called = rest.partition(":")
        if not path:
            raise UsageError(f"{text!r} names no file")
        return End(
            name=parse_name(called) if called else None, target=Target(transport, Path(path))
        )
    if colon and transport == STORE:
        root, bracket, called = rest[1:].partition("]") if rest.startswith("[") else ("", "", rest)
        _check_no_digest(text, parse_name(called, default_domain))
        return End(reference=Reference(STORE, Path(root) if bracket else store, called))
    if colon and transport in FOREIGN_STORES:
        raise UsageError(f"{text!r}: {transport}: is read, and never written")
    _check_no_digest(text, parse_name(text, default_domain))
    return End(reference=Reference(STORE, store, text))


def _check_no_digest(text: str, name: ImageName) -> None:
    if name.digest is not None:
        raise UsageError(f"{text!r}: what is written gets a tag, its digest is what it is")


def copy(
    source: End, target: End, options: CopyOptions, directories: Directories, progress: Transfers
) -> Digest:
    """Returns the ID that the image has at the target; for an index its digest.

    Raises what pull or load, and save or push raise.
    """
    with _store_between(source, target, options, directories) as store:
        image, names = _load_source(store, source, target, options, directories, progress)
        if options.platform is not None and image.summary.what == "index":
            raise UsageError(
                f"{source.reference or source.name}: has several platforms, which are copied "
                "together; --platform chooses of a registry's, docker's and podman's images"
            )
        return _write_target(store, image, names, target, options, progress)


@contextmanager
def _store_between(
    source: End, target: End, options: CopyOptions, directories: Directories
) -> Iterator[Store]:
    """The target's store, else the source's; else a new one, removed at the end of the block."""
    for end in (target, source):
        if end.reference is not None and end.reference.transport == STORE:
            domain = options.default_domain
            yield Store(
                end.reference.path, create=end is target, default_domain=domain,
                unpack=options.unpack,
            )  # fmt: skip
            return
    _sweep(directories.cache)
    root = directories.cache / f"{_COPY}{os.getpid()}-{os.urandom(4).hex()}"
    os.close(own_directory(directories.cache, mode=0o700))
    fd = own_directory(root, mode=0o700)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield Store(root, create=True, unpack=options.unpack)
    finally:
        shutil.rmtree(root, ignore_errors=True)
        os.close(fd)


def _sweep(cache: Path) -> None:
    """Removes the stores of copies that were killed: no process has their lock."""
    with suppress(FileNotFoundError):
        os.close(own_directory(cache, make=False))
    for root in cache.glob(_COPY + "*"):
        with suppress(OSError):
            fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                if is_abandoned(fd):
                    shutil.rmtree(root, ignore_errors=True)
            finally:
                os.close(fd)


def _load_source(
    store: Store,
    source: End,
    target: End,
    options: CopyOptions,
    directories: Directories,
    progress: Transfers,
) -> tuple[StoredImage, tuple[ImageName, ...]]:
    """Takes the source's image into the store.  Returns it, and its names."""
    kept = target.reference is not None
    if source.name is not None:
        called = store.name(target.reference.name or "") if target.reference else None
        pulled = pull(store, source.name, options.pull, progress, called)
        return pulled.image, (source.name.tagged(),)
    assert source.reference is not None
    reference, of_store = source.reference, None
    if reference.transport == STORE:
        other = Store(reference.path)
        image = other.find(reference.name or "")
        if other.root == store.root:
            return image, image.names[:1]
        # another store is a layout like any other
        reference, of_store = Reference("oci", other.root, image.digest), other.layout
    if reference.transport in FOREIGN_STORES:
        chosen = ImageOptions(options.platform, unpack=options.unpack)
        with open_image(reference, chosen, directories, SilentProgress()) as opened:
            image = load_opened(store, opened, progress, named=not kept)
        return image, image.names[:1]
    budget = Budget(options.unpack)
    with open_medium(reference, directories, SilentProgress(), budget) as medium:
        found = load_medium(
            store, medium, progress, only=reference.name, named=not kept, budget=budget,
            of_store=of_store,
        )  # fmt: skip
    # One image may be found under several names.
    images = list({image.digest: image for image in found}.values())
    if len(images) != 1:
        which = ", ".join(name.familiar for image in images for name in image.names)
        raise ImageNotFound(
            f"{reference}: {len(images)} images ({which}): name the one that is meant"
        )
    return images[0], images[0].names[:1]


def _write_target(
    store: Store,
    image: StoredImage,
    names: tuple[ImageName, ...],
    target: End,
    options: CopyOptions,
    progress: Transfers,
) -> Digest:
    if target.reference is not None:
        name = store.name(target.reference.name or "")
        return store.tag(image.digest, name).image_id
    if target.target is not None:
        called = names
        if target.name is not None:  # unchanged, because skopeo finds an image by the name given
            docker = target.target.form == "docker-archive"
            called = (target.name.tagged() if docker else target.name,)
        save(store, [(image, called)], target.target, progress)
        return image.image_id
    assert target.name is not None
    push(store, image, target.name, options.push, progress)
    return image.image_id
