"""Law: reads the images in an archive of `docker save`, of each version of docker.

docker <= 1.9    repositories, <id>/json, <id>/layer.tar: each layer's json names its parent
docker 1.10-24   manifest.json, <config hex>.json, <id>/layer.tar (some of them symlinks)
docker 25+       manifest.json that lists blobs/sha256/..., beside an OCI layout, which is not read:
                 25.0.0 wrote the layers of its OCI manifest in random order, 25.0 listed none
"""

from __future__ import annotations

import json
import re
from dataclasses import replace

from fusemount.digest import Digest
from fusemount.errors import MalformedImage
from fusemount.image.fields import DOCUMENT_BYTES_MAX, shown
from fusemount.image.model import TAR_LAYER, DockerManifest, History, ImageConfig
from fusemount.image.parse import (
    LAYERS_MAX,
    parse_config,
    parse_docker_manifests,
    parse_repositories,
    parse_v1,
)
from fusemount.settings import ImageOptions, Platform
from fusemount.sources.image import (
    Candidate,
    FoundLayer,
    Image,
    image_of,
    layer_blobs,
    verified,
)
from fusemount.sources.medium import Medium, read_document

_BLOB = re.compile(r"blobs/sha256/([0-9a-f]{64})")
_CONFIG = re.compile(r"(?:blobs/sha256/|sha256:)?([0-9a-f]{64})(?:\.json)?")


def candidates(medium: Medium, options: ImageOptions) -> list[Candidate]:
    """The images.  Raises MalformedImage if there is neither manifest.json nor repositories."""
    data = read_document(medium, "manifest.json", DOCUMENT_BYTES_MAX)
    if data is not None:
        where = f"{medium.label}: manifest.json"
        platforms: dict[str, Platform] = {}  # each config is read once, named ever so often
        manifests = parse_docker_manifests(data, where)
        return [_candidate(medium, manifest, options, platforms) for manifest in manifests]
    data = read_document(medium, "repositories", DOCUMENT_BYTES_MAX)
    if data is None:
        raise MalformedImage(
            f"{medium.label}: no docker archive: neither manifest.json nor repositories in it"
        )
    heads = parse_repositories(data, f"{medium.label}: repositories")
    return [_v1_candidate(medium, tag, ident) for tag, ident in heads.items()]


def _candidate(
    medium: Medium, manifest: DockerManifest, options: ImageOptions, platforms: dict[str, Platform]
) -> Candidate:
    named = _CONFIG.fullmatch(manifest.config)
    claimed = Digest("sha256:" + named[1]) if named else None

    def config() -> tuple[bytes, Digest]:
        data = _document(medium, manifest.config)
        where = f"{medium.label}: {shown(manifest.config)}"
        return data, verified(data, claimed, where, options.verify)

    def platform() -> Platform:
        if manifest.config not in platforms:
            where = f"{medium.label}: {shown(manifest.config)}"
            platforms[manifest.config] = parse_config(config()[0], where).platform
        return platforms[manifest.config]

    def open_it(names: tuple[str, ...]) -> Image:
        data, digest = config()
        layers = [_layer(medium, name) for name in manifest.layers]
        return image_of(medium, data, digest, layers, manifest_digest=None, names=names)

    return Candidate(
        key=json.dumps([manifest.config, *manifest.layers]),  # names may contain any character
        names=manifest.repo_tags,
        ids=(claimed,) if claimed else (),
        platform=platform,
        open=open_it,
    )


def _document(medium: Medium, name: str) -> bytes:
    data = read_document(medium, name, DOCUMENT_BYTES_MAX)
    if data is None:
        raise MalformedImage(f"{medium.label}: {shown(name)}: listed, but not in the archive")
    return data


def _layer(medium: Medium, name: str) -> FoundLayer:
    stretch = medium.find(name)
    if stretch is None:
        raise MalformedImage(
            f"{medium.label}: layer {shown(name)}: listed, but not in the archive "
            "(a foreign layer is not saved with its image)"
        )
    blob = _BLOB.fullmatch(name)
    digest = Digest("sha256:" + blob[1]) if blob else None
    return FoundLayer(name, stretch, digest, TAR_LAYER)


def _v1_candidate(medium: Medium, tag: str, ident: str) -> Candidate:
    def config() -> ImageConfig:
        return _v1_step(medium, ident)[1]

    return Candidate(
        key=ident,
        names=(tag,),
        ids=(ident,),
        platform=lambda: config().platform,
        open=lambda names: _v1_image(medium, ident, names),
    )


def _v1_step(medium: Medium, ident: str) -> tuple[str, ImageConfig, History]:
    name = f"{ident}/json"
    return parse_v1(_document(medium, name), f"{medium.label}: {shown(name)}")


def _v1_image(medium: Medium, head: str, names: tuple[str, ...]) -> Image:
    """The image whose highest layer is `head`; its layers are found parent by parent."""
    config: ImageConfig | None = None
    layers: list[FoundLayer] = []
    history: list[History] = []
    seen: set[str] = set()
    ident = head
    while ident:
        if ident in seen or len(seen) >= LAYERS_MAX:
            why = "is its own ancestor" if ident in seen else f"has over {LAYERS_MAX} layers"
            raise MalformedImage(f"{medium.label}: {shown(ident)}/json: the image {why}")
        seen.add(ident)
        parent, step_config, step = _v1_step(medium, ident)
        config = config or step_config
        history.append(step)
        layers.append(_layer(medium, f"{ident}/layer.tar"))
        ident = parent
    if config is None:
        raise MalformedImage(f"{medium.label}: repositories: an image without an id")
    layers.reverse()
    return Image(
        source=medium.label,
        config=replace(config, history=tuple(reversed(history))),
        config_digest=None,
        manifest_digest=None,
        repo_tags=names,
        platform=config.platform,
        layers=layer_blobs(medium.label, layers, [None] * len(layers)),
        files=tuple(medium.files()),
        v1_id=head if re.fullmatch("[0-9a-f]{64}", head) else "",
    )
