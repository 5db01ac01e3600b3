"""Law: opens the image that a reference names: recognises the file's format, chooses one image."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from fusemount.budget import Budget
from fusemount.errors import ImageNotFound, ImgmountError, MalformedImage, PlatformMismatch
from fusemount.image.model import History, ImageConfig
from fusemount.image.platforms import normalised, this_machine
from fusemount.layer import BlobFile, Progress
from fusemount.layer.cache import Cache
from fusemount.reference import CONTAINERS_STORAGE, DIRECTORIES, DOCKER, STORE, Reference
from fusemount.settings import Directories, ImageOptions, Unpacking
from fusemount.sources import docker_archive, oci
from fusemount.sources.choose import choose
from fusemount.sources.image import Candidate, Image
from fusemount.sources.medium import Archive, Directory, Medium, links_of
from fusemount.sources.outer import (
    ROOTFS,
    index_of,
    is_root_in_place,
    recognised,
    root_layer,
    unwrapped,
)


def open_image(
    reference: Reference, options: ImageOptions, directories: Directories, progress: Progress
) -> Image:
    """The image that a reference names; the caller closes it.

    Config and manifests are verified unless options.verify is off.  Layers are not read.
    Raises ImageNotFound, MalformedImage, VerificationFailed, PlatformMismatch, NoSpace,
    NotPermitted.
    """
    if reference.transport == DIRECTORIES:
        return _of_directories(reference, options)
    if reference.transport == STORE:
        from fusemount.sources.stored import open_stored

        return open_stored(reference, options)
    if reference.transport == DOCKER:
        from fusemount.sources.docker_storage import open_docker

        return open_docker(reference, options)
    if reference.transport == CONTAINERS_STORAGE:
        from fusemount.sources.containers_storage import open_containers_storage

        return open_containers_storage(reference, options)
    path = reference.path
    try:
        is_directory = path.is_dir()
        if not path.exists():
            raise ImageNotFound(f"{path}: no such file or directory")
    except OSError as error:
        raise ImageNotFound(f"{path}: {error.strerror or error}") from None
    if is_directory:
        return _from_directory(reference, options)
    if reference.transport == "oci":
        raise ImageNotFound(
            f"{path}: not a directory; an OCI layout in a tar is oci-archive:{path}"
        )
    return _from_file(reference, options, directories, progress)


@contextmanager
def open_medium(
    reference: Reference, directories: Directories, progress: Progress, budget: Budget
) -> Iterator[Medium]:
    """The archive or layout that a reference names, with all its images.

    Raises ImageNotFound, MalformedImage, NoSpace; ImageNotFound also for a root file system's tar.
    """
    path = reference.path
    if path.is_dir():
        if not (path / "index.json").exists():
            raise ImageNotFound(f"{path}: a directory without an image (no index.json in it)")
        directory = Directory(path)
        try:
            yield directory
        finally:
            directory.close()
        return
    cache, file = Cache(directories.cache), BlobFile(path)
    with ExitStack() as undo:
        undo.callback(file.close)
        plain = unwrapped(file, str(path), cache, progress, budget)
        undo.callback(plain.close)
        transport, index = recognised(reference.transport, plain, str(path), cache)
        if transport == ROOTFS:
            raise ImageNotFound(
                f"{path}: no image, but a root file system: `imgmount import` takes it"
            )
        try:
            yield Archive(str(path), plain, index or index_of(plain, str(path)))
        except ImgmountError as error:
            if budget.spoilt_by(error):
                cache.drop(budget.made)
            raise


def _from_directory(reference: Reference, options: ImageOptions) -> Image:
    path = reference.path
    if reference.transport not in (None, "oci"):
        raise ImageNotFound(f"{path}: a directory; {reference.transport}: wants a file")
    if not (path / "oci-layout").exists() and not (path / "index.json").exists():
        raise ImageNotFound(f"{path}: a directory without an image (no oci-layout in it)")
    medium = Directory(path, links_of(options))
    with ExitStack() as undo:
        undo.callback(medium.close)
        image = choose(oci.candidates(medium, options), reference.name, options, medium.label)
        undo.pop_all()
    return image


def _of_directories(reference: Reference, options: ImageOptions) -> Image:
    """An image of directories.  Its config is made up, for this machine or --platform."""
    platform = normalised(options.platform) if options.platform else this_machine()
    config = ImageConfig(
        os=platform.os, architecture=platform.architecture, variant=platform.variant
    )
    lowest_first = tuple(reversed((reference.path, *reference.more)))
    return Image(str(reference), config, None, None, (), platform, (), (), directories=lowest_first)


def _from_file(
    reference: Reference, options: ImageOptions, directories: Directories, progress: Progress
) -> Image:
    with ExitStack() as undo:
        file = BlobFile(reference.path)
        undo.callback(file.close)
        label = str(reference.path)
        if is_root_in_place(file, label, reference.transport, options, directories, progress):
            image = _rootfs_image(file, label, reference.name, options)
            undo.pop_all()
            return image
        budget, cache = Budget(options.unpack), Cache(directories.cache)
        never = options.unpacking is Unpacking.NEVER
        plain = unwrapped(file, label, cache, progress, budget, never)
        undo.callback(plain.close)
        transport, index = recognised(reference.transport, plain, label, cache)
        if transport == ROOTFS:
            image = _rootfs_image(plain, label, reference.name, options)
        else:
            medium: Medium = Archive(label, plain, index or index_of(plain, label))
            read = oci.candidates if transport == "oci-archive" else docker_archive.candidates
            image = _chosen(read, medium, reference, options)
        undo.pop_all()
    if plain is not file:
        file.close()
    return replace(image, budget=budget)


def _chosen(
    read: Callable[[Medium, ImageOptions], list[Candidate]],
    medium: Medium,
    reference: Reference,
    options: ImageOptions,
) -> Image:
    """The chosen image.  If the format was guessed, errors name the reference for the other one."""
    guessed = reference.transport is None and read is docker_archive.candidates
    try:
        return choose(read(medium, options), reference.name, options, medium.label)
    except PlatformMismatch as error:
        if guessed and medium.find("index.json") is not None:
            hint = f"{error}; its OCI index may have more: oci-archive:{reference.path}"
            raise PlatformMismatch(hint) from error
        raise
    except MalformedImage as error:
        if guessed and "manifest.json: " in str(error):
            hint = f"{error}; as a plain root file system it is tar:{reference.path}"
            raise MalformedImage(hint) from error
        raise


def _rootfs_image(file: BlobFile, label: str, name: str | None, options: ImageOptions) -> Image:
    """The tar is the only layer.  The config is made up, for this machine or --platform."""
    if name is not None:
        raise ImageNotFound(
            f"{label}: no image {name!r} in it; it is a plain root file system without names"
        )
    platform = normalised(options.platform) if options.platform else this_machine()
    step = History(created_by=f"{os.path.basename(label)}", comment="a plain root file system")
    config = ImageConfig(
        os=platform.os,
        architecture=platform.architecture,
        variant=platform.variant,
        history=(step,),
    )
    return Image(label, config, None, None, (), platform, (root_layer(file, label),), (file,))


def path_exists(path: Path) -> bool:
    """For parse_reference(): whether any kind of file is at the path; False on an error."""
    try:
        return path.exists()
    except OSError:
        return False
