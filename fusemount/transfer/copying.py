"""Law: an image goes from any place to any other: registries, stores, archives, layouts.

    docker://NAME                                   a registry
    store:[ROOT]NAME, NAME                          a store
    docker:NAME, containers-storage:NAME            what other programs have: a source only
    oci:DIR[:NAME]  oci-archive:FILE[:NAME]  docker-archive:FILE[:NAME]

One of the two ends is a store, or a store is made between them for as long as it takes: so every
copy is a pull or load, and a save or push, and is verified as those are.
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
    """One of: a registry's name; a reference of a store or of what is read; a target to write."""

    name: ImageName | None = None
    reference: Reference | None = None
    target: Target | None = None


@dataclass(frozen=True)
class CopyOptions:
    """default_domain: of names in stores that have none."""

    pull: PullOptions
    push: PushOptions
    default_domain: str = DOCKER_HUB
    unpack: UnpackLimit = UNPACK_LIMIT

    @property
    def platform(self) -> Platform | None:
        return self.pull.platform


def source_end(text: str, refer: Callable[[str], Reference], default_domain: str) -> End:
    """refer reads what is no registry's.  Raises UsageError."""
    if text.startswith(REGISTRY):
        return End(name=parse_name(text.removeprefix(REGISTRY), default_domain))
    return End(reference=refer(text))


def target_end(text: str, store: Path, default_domain: str) -> End:
    """Raises UsageError."""
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
    """The image's ID (an index': its digest) where it now is.  Raises what its two halves raise."""
    with _through(source, target, options, directories) as store:
        image, names = _in(store, source, target, options, directories, progress)
        if options.platform is not None and image.summary.what == "index":
            raise UsageError(
                f"{source.reference or source.name}: has several platforms, which are copied "
                "together; --platform chooses of a registry's, docker's and podman's images"
            )
        return _out(store, image, names, target, options, progress)


@contextmanager
def _through(
    source: End, target: End, options: CopyOptions, directories: Directories
) -> Iterator[Store]:
    """The store at one of the ends, the target's first, or one for a while."""
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
    """Stores of copies that were killed: nobody holds their lock."""
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


def _in(
    store: Store,
    source: End,
    target: End,
    options: CopyOptions,
    directories: Directories,
    progress: Transfers,
) -> tuple[StoredImage, tuple[ImageName, ...]]:
    """The source's image in the store, and what it is called."""
    kept = target.reference is not None
    if source.name is not None:
        called = store.name(target.reference.name or "") if target.reference else None
        pulled = pull(store, source.name, options.pull, progress, called)
        return pulled.image, (source.name.tagged(),)
    assert source.reference is not None
    reference = source.reference
    if reference.transport == STORE:
        other = Store(reference.path)
        image = other.find(reference.name or "")
        if other.root == store.root:
            return image, image.names[:1]
        # from one store into another: a layout like any other
        reference = Reference("oci", other.root, image.digest)
    if reference.transport in FOREIGN_STORES:
        chosen = ImageOptions(options.platform, unpack=options.unpack)
        with open_image(reference, chosen, directories, SilentProgress()) as opened:
            image = load_opened(store, opened, progress, named=not kept)
        return image, image.names[:1]
    budget = Budget(options.unpack)
    with open_medium(reference, directories, SilentProgress(), budget) as medium:
        found = load_medium(
            store, medium, progress, only=reference.name, named=not kept, budget=budget
        )
    images = list({image.digest: image for image in found}.values())  # it may have several names
    if len(images) != 1:
        which = ", ".join(name.familiar for image in images for name in image.names)
        raise ImageNotFound(
            f"{reference}: {len(images)} images ({which}): name the one that is meant"
        )
    return images[0], images[0].names[:1]


def _out(
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
        if target.name is not None:  # as it was given: skopeo finds what it was told to write
            docker = target.target.form == "docker-archive"
            called = (target.name.tagged() if docker else target.name,)
        save(store, [(image, called)], target.target, progress)
        return image.image_id
    assert target.name is not None
    push(store, image, target.name, options.push, progress)
    return image.image_id
