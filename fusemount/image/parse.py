"""Law: parses documents from bytes into values of model.py, or raises MalformedImage; no I/O.

Sources: OCI image-spec v1.1 (descriptor.md, manifest.md, image-index.md, config.md), docker's
"Image Manifest Version 2, Schema 2" and "Image Specification v1.2" (manifest.json).
where, in all functions: the document's name for messages.
"""

from __future__ import annotations

from typing import Any

from fusemount.digest import Digest
from fusemount.errors import MalformedImage
from fusemount.image.fields import Fields, object_of, objects_of, parse_json
from fusemount.image.model import (
    INDEX_TYPES,
    MANIFEST_TYPES,
    ContainerConfig,
    Descriptor,
    DockerManifest,
    History,
    ImageConfig,
    Index,
    Manifest,
)
from fusemount.settings import Platform

LAYERS_MAX = 4096  # of one image; docker's limit is 127, the largest image we know of has 500
NESTING_MAX = 8  # indexes in indexes; tools write two levels
MANIFESTS_MAX = 10_000  # of one index
HISTORY_MAX = 100_000
NAMES_MAX = 10_000  # of all images of an archive, and of a repository that is pulled whole


def parse_descriptor(fields: Fields) -> Descriptor:
    platform = fields.object("platform")
    return Descriptor(
        media_type=fields.text("mediaType"),
        digest=fields.digest("digest"),
        size=fields.count("size"),
        annotations=fields.text_mapping("annotations"),
        platform=None if platform is None else _platform(platform),
        urls=fields.texts("urls") or (),
        artifact_type=fields.text("artifactType"),
    )


def _platform(fields: Fields) -> Platform:
    return Platform(fields.text("os"), fields.text("architecture"), fields.text("variant"))


def parse_index_or_manifest(data: bytes, where: str, media_type: str = "") -> Index | Manifest:
    """The kind is decided by the document's mediaType, else by the descriptor's (media_type), else
    by the key that it has: manifests or layers."""
    return index_or_manifest_of(parse_json(data, where), where, media_type)


def index_or_manifest_of(value: Any, where: str, media_type: str = "") -> Index | Manifest:
    """The same for a document that parse_json() has read."""
    fields = object_of(value, where)
    if fields.count("schemaVersion") == 1 or "fsLayers" in fields.document:
        raise MalformedImage(f"{where}: a docker schema 1 manifest, which carries no config")
    kind = fields.text("mediaType") or media_type
    if "manifests" in fields.document and fields.document.keys() & {"layers", "config"}:
        # CVE-2021-41190: the same bytes would be an image for one reader, an index for another.
        raise fields.bad("manifests", "stands beside layers or config: ambiguous")
    if kind in INDEX_TYPES or (kind not in MANIFEST_TYPES and "manifests" in fields.document):
        return _index(fields)
    return _manifest(fields)


def parse_index(data: bytes, where: str) -> Index:
    return _index(object_of(parse_json(data, where), where))


def _index(fields: Fields) -> Index:
    entries = fields.objects("manifests")
    if len(entries) > MANIFESTS_MAX:
        raise fields.bad("manifests", f"{len(entries)} entries, the limit is {MANIFESTS_MAX}")
    found = tuple(parse_descriptor(entry) for entry in entries)
    return Index(found, fields.text_mapping("annotations"), fields.text("mediaType"))


def _manifest(fields: Fields) -> Manifest:
    config = fields.object("config")
    if config is None:
        raise MalformedImage(f"{fields.where}: neither an image manifest nor an index")
    layers = fields.objects("layers")
    _check_layers(fields, "layers", len(layers))
    return Manifest(
        config=parse_descriptor(config),
        layers=tuple(parse_descriptor(layer) for layer in layers),
        media_type=fields.text("mediaType"),
        annotations=fields.text_mapping("annotations"),
        artifact_type=fields.text("artifactType"),
    )


def _check_layers(fields: Fields, key: str, count: int) -> None:
    if count > LAYERS_MAX:
        raise fields.bad(key, f"{count} layers, the limit is {LAYERS_MAX}")


def parse_docker_manifests(data: bytes, where: str) -> tuple[DockerManifest, ...]:
    """manifest.json of `docker save`: a list with one object for each image."""
    found = []
    for fields in objects_of(parse_json(data, where), where):
        layers = fields.texts("Layers") or ()
        _check_layers(fields, "Layers", len(layers))
        if not fields.text("Config"):
            raise fields.bad("Config", "is missing")
        entry = DockerManifest(fields.text("Config"), fields.texts("RepoTags") or (), layers)
        found.append(entry)
    check_names(sum(len(entry.repo_tags) for entry in found), where)
    return tuple(found)


def check_names(count: int, where: str) -> None:
    """Raises MalformedImage: each name is written to index.json of a store, which each verb
    reads."""
    if count > NAMES_MAX:
        raise MalformedImage(f"{where}: {count} names of images, the limit is {NAMES_MAX}")


def parse_repositories(data: bytes, where: str) -> dict[str, str]:
    """`repositories` of docker before 1.10, as {NAME:TAG: id of the highest layer}."""
    fields = object_of(parse_json(data, where), where)
    found = {}
    for name in fields.document:
        for tag, ident in fields.text_mapping(name).items():
            found[f"{name}:{tag}"] = ident
    check_names(len(found), where)
    return found


def parse_config(data: bytes, where: str) -> ImageConfig:
    fields = object_of(parse_json(data, where), where)
    rootfs = fields.object("rootfs")
    diff_ids: tuple[Digest, ...] = ()
    if rootfs is not None:
        if rootfs.text("type") not in ("layers", ""):
            raise rootfs.bad("type", f"{rootfs.text('type')[:40]!r} is not 'layers'")
        try:
            diff_ids = tuple(Digest(each) for each in rootfs.texts("diff_ids") or ())
        except ValueError as error:
            raise rootfs.bad("diff_ids", str(error)) from None
        _check_layers(rootfs, "diff_ids", len(diff_ids))
    history = fields.objects("history")
    if len(history) > HISTORY_MAX:
        raise fields.bad("history", f"{len(history)} entries, the limit is {HISTORY_MAX}")
    container = fields.object("config")
    return ImageConfig(
        os=fields.text("os"),
        architecture=fields.text("architecture"),
        variant=fields.text("variant"),
        os_version=fields.text("os.version"),
        created=fields.text("created"),
        author=fields.text("author"),
        container=ContainerConfig() if container is None else parse_container(container),
        diff_ids=diff_ids,
        history=tuple(parse_history(entry) for entry in history),
        document=fields.document,
    )


def parse_history(fields: Fields) -> History:
    return History(
        created=fields.text("created"),
        created_by=fields.text("created_by"),
        author=fields.text("author"),
        comment=fields.text("comment"),
        empty_layer=fields.flag("empty_layer"),
    )


def parse_container(fields: Fields) -> ContainerConfig:
    return ContainerConfig(
        user=fields.text("User"),
        env=fields.texts("Env") or (),
        entrypoint=fields.texts("Entrypoint"),
        cmd=fields.texts("Cmd"),
        working_dir=fields.text("WorkingDir"),
        labels=fields.text_mapping("Labels"),
        exposed_ports=tuple(fields.mapping("ExposedPorts")),
        volumes=tuple(fields.mapping("Volumes")),
        stop_signal=fields.text("StopSignal"),
        hostname=fields.text("Hostname"),
    )


def parse_v1(data: bytes, where: str) -> tuple[str, ImageConfig, History]:
    """`<id>/json` of docker before 1.10, as (parent id or "", config without diff_ids, its step of
    the history)."""
    fields = object_of(parse_json(data, where), where)
    container = fields.object("config")
    step: Any = fields.object("container_config")
    created_by = " ".join(step.texts("Cmd") or ()) if step is not None else ""
    config = ImageConfig(
        os=fields.text("os") or "linux",
        architecture=fields.text("architecture"),
        variant=fields.text("variant"),
        created=fields.text("created"),
        author=fields.text("author"),
        container=ContainerConfig() if container is None else parse_container(container),
        document=fields.document,
    )
    history = History(config.created, created_by, config.author, fields.text("comment"))
    return fields.text("parent"), config, history
