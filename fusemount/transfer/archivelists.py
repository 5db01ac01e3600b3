"""Law: says which images an archive or layout lists, and under which names.

An archive of docker 25 lists its images twice, in index.json and in manifest.json.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fusemount.digest import Digest
from fusemount.errors import ImageNotFound, ImgmountError, UsageError, VerificationFailed
from fusemount.image.fields import DOCUMENT_BYTES_MAX
from fusemount.image.model import Descriptor, Index, Manifest
from fusemount.image.parse import parse_index
from fusemount.imagename import ImageName, parse_name
from fusemount.settings import ImageOptions, Platform
from fusemount.sources import docker_archive, oci
from fusemount.sources.choose import choose
from fusemount.sources.image import Image
from fusemount.sources.medium import Medium, read_document
from fusemount.transfer.documents import Document, Documents


def stored_name(text: str) -> ImageName | None:
    """The name that an archive gives its image; None if the text is no valid name."""
    try:
        name = parse_name(text).tagged()
    except UsageError:
        return None
    return name if name.tag and not name.reads_as_id else None


def tops(medium: Medium, documents: Documents) -> list[Descriptor]:
    """What index.json lists, without attestations, artifacts and missing manifests."""
    where = f"{medium.label}: index.json"
    data = read_document(medium, "index.json", DOCUMENT_BYTES_MAX)
    listed = parse_index(data or b"", where).manifests
    found = [d for d in listed if not d.is_attestation and _is_image(documents, d)]
    if listed and not found and not medium.find("manifest.json"):
        raise ImageNotFound(f"{medium.label}: no image of those that it lists is in it")
    return found


def _is_image(documents: Documents, descriptor: Descriptor) -> bool:
    try:
        document = documents.get(descriptor)
    except VerificationFailed:
        return True  # the error is raised if it is chosen
    if document is None:
        return False
    return isinstance(document.content, Index) or not document.content.is_artifact


def whole(medium: Medium, tops: Sequence[Descriptor], documents: Documents) -> list[Descriptor]:
    """The same descriptors; [] if manifest.json must be read instead.

    docker 25.0 wrote OCI manifests without layers, or with layers in random order, beside a right
    manifest.json.  An archive may also be made so that a name is one image in index.json and
    another one in manifest.json, which podman, skopeo and our mounts read.
    """
    try:
        images = list(_docker_images(medium))
        wanted = {Digest.of(image.config_bytes): image for image in images}
        if not _same_names(medium, tops, images):
            return []
    except ImgmountError:
        return []  # the error is raised where manifest.json is read for the images
    for top in tops:
        for manifest in _manifests(documents, top):
            image = wanted.pop(manifest.config.digest, None)
            own = [layer.digest for layer in image.layers] if image is not None else None
            if own is not None and own != [layer.digest for layer in manifest.layers]:
                return []
    return [] if wanted else list(tops)


def _same_names(medium: Medium, tops: Sequence[Descriptor], images: Sequence[Image]) -> bool:
    """Whether index.json, too, has each of these images of manifest.json under each of its names,
    for its platform, and nothing else under that name.  Raises ImgmountError."""
    named: dict[ImageName, dict[Digest, Descriptor]] = {}
    for top in tops:
        for name in list(filter(None, map(stored_name, top.names)))[:1]:
            named.setdefault(name, {})[top.digest] = top
    known: dict[tuple[Platform, Digest], bytes] = {}
    for image in images:
        options = ImageOptions(verify=False, platform=image.platform)
        for name in filter(None, map(stored_name, image.repo_tags)):
            found = list(named.get(name, {}).values())
            if len(found) != 1:
                return False
            key = image.platform, found[0].digest
            if key not in known:
                below = oci.candidates_of(medium, found, options)
                known[key] = choose(below, None, options, medium.label).config_bytes
            if known[key] != image.config_bytes:
                return False
    return True


def _docker_images(medium: Medium) -> Iterator[Image]:
    for candidate in docker_archive.candidates(medium, ImageOptions(verify=False)):
        yield candidate.open(candidate.names)


def _manifests(documents: Documents, top: Descriptor) -> Iterator[Manifest]:
    """All manifests below a descriptor, each once."""

    def below(index: Document) -> Sequence[Descriptor]:
        assert isinstance(index.content, Index)
        return index.content.manifests

    for document in documents.walk(top, below).values():
        if isinstance(document.content, Manifest):
            yield document.content


def image_ids(documents: Documents, top: Descriptor) -> list[Digest]:
    try:
        return [manifest.config.digest for manifest in _manifests(documents, top)]
    except VerificationFailed:
        return []  # it can be chosen by its name
