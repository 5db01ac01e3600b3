"""Law: defines frozen values for the documents of an image (OCI image-spec v1.1, docker schema 2).

parse.py makes these values from bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any

from fusemount.dataclass import dataclass
from fusemount.digest import Digest
from fusemount.settings import Platform

OCI = "application/vnd.oci.image."
DOCKER = "application/vnd.docker."

INDEX_TYPES = frozenset((OCI + "index.v1+json", DOCKER + "distribution.manifest.list.v2+json"))
MANIFEST_TYPES = frozenset((OCI + "manifest.v1+json", DOCKER + "distribution.manifest.v2+json"))
CONFIG_TYPES = frozenset((OCI + "config.v1+json", DOCKER + "container.image.v1+json"))
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
TAR_LAYER = OCI + "layer.v1.tar"  # and Compression.media_suffix
DOCKER_LAYER = DOCKER + "image.rootfs.diff.tar"
REF_NAME = "org.opencontainers.image.ref.name"
ORIGINAL = "dev.imgmount.original"  # transfer/ociform.py
ATTESTATION_NOTE = "vnd.docker.reference.type"
CONTAINERD_NAME = "io.containerd.image.name"  # the full name; ref.name has only the tag


@dataclass(frozen=True)
class Descriptor:
    """A pointer to a blob (descriptor.md).  size: bytes; platform: None if it is absent."""

    media_type: str
    digest: Digest
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict)
    platform: Platform | None = None
    urls: tuple[str, ...] = ()
    artifact_type: str = ""

    @property
    def is_attestation(self) -> bool:
        """Whether this is a manifest of BuildKit's with provenance, not an image."""
        kind = self.annotations.get(ATTESTATION_NOTE, "")
        unknown = self.platform is not None and self.platform.os == "unknown"
        return unknown or kind == "attestation-manifest"

    @property
    def is_foreign(self) -> bool:
        """Whether the blob must not be put into archives (Windows base layers)."""
        return "nondistributable" in self.media_type or "rootfs.foreign" in self.media_type

    @property
    def names(self) -> tuple[str, ...]:
        """The names that the index gives it, the full name first."""
        both = (self.annotations.get(CONTAINERD_NAME), self.annotations.get(REF_NAME))
        return tuple(dict.fromkeys(name for name in both if name))


@dataclass(frozen=True)
class Manifest:
    """One image for one platform; layers lowest first."""

    config: Descriptor
    layers: tuple[Descriptor, ...]
    media_type: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict)
    artifact_type: str = ""

    @property
    def is_artifact(self) -> bool:
        """Whether it is not an image, but a signature, an SBOM … (OCI image-spec, manifest.md,
        "artifactType")."""
        kind = self.config.media_type
        return kind == EMPTY_TYPE or (bool(self.artifact_type) and kind not in CONFIG_TYPES)


@dataclass(frozen=True)
class Index:
    """A list of manifests, and of further indexes."""

    manifests: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(default_factory=dict)
    media_type: str = ""


@dataclass(frozen=True)
class DockerManifest:
    """An entry of `docker save`'s manifest.json; config and layers are member names."""

    config: str
    repo_tags: tuple[str, ...]
    layers: tuple[str, ...]


@dataclass(frozen=True)
class History:
    """One step of a build; empty_layer: the step made no layer."""

    created: str = ""
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False


@dataclass(frozen=True)
class ContainerConfig:
    """The settings of an image for `docker run`.

    entrypoint, cmd: None if the image has none, which is not the same as an empty list.
    """

    user: str = ""
    env: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    working_dir: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    exposed_ports: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    stop_signal: str = ""
    hostname: str = ""


@dataclass(frozen=True)
class ImageConfig:
    """An image's config (config.md).

    created: RFC 3339 as written, "" if absent.
    diff_ids: lowest layer first; empty if the archive has no config (a plain tar, docker 1.9).
    history: lowest step first.
    document: the whole JSON object, for values that are only shown.
    """

    os: str
    architecture: str
    variant: str = ""
    os_version: str = ""
    created: str = ""
    author: str = ""
    container: ContainerConfig = field(default_factory=ContainerConfig)
    diff_ids: tuple[Digest, ...] = ()
    history: tuple[History, ...] = ()
    document: Mapping[str, Any] = field(default_factory=dict)

    @property
    def platform(self) -> Platform:
        return Platform(self.os, self.architecture, self.variant)
