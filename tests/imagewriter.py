"""Makes container images for tests byte by byte: docker archives of every version, OCI layouts.

Law: the same arguments always give the same bytes; nothing is checked, so that hostile images can
be written.  Layers come from tarwriter.TarWriter(...).tar().

ImageSpec(layers, tags=("t:latest",), config={...}, compress="none")
    layers: uncompressed tars, lowest first; config: merged over a minimal image config;
    compress: "none", "gzip", "zstd", "xz", "bzip2" for the blobs.
docker_archive(path, layers, tags=..., config=..., style="1.10" | "1.9" | "25")
oci_layout(directory, layers, ...), oci_archive(path, layers, ...)
Each also takes images=[ImageSpec, ...] in place of layers, and wrap="gzip" (archives), and
reverse=True (archives: members in the reverse order).
docker_files(images, style) and oci_files(images) give {member name: bytes or Link}, which a
test may change; write_archive(path, files) and write_directory(path, files) write it.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import json
import lzma
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zstandard
from tarwriter import TarWriter


@dataclass
class Unsaid:
    """compress: of layers, where the test does not say how (pytest's option --layers)."""

    compress: str = "none"


UNSAID = Unsaid()


def compress(data: bytes, how: str) -> bytes:
    if how == "gzip":
        return gzip.compress(data, 6, mtime=0)
    if how == "zstd":
        return zstandard.ZstdCompressor().compress(data)
    if how == "xz":
        return lzma.compress(data)
    if how == "bzip2":
        return bz2.compress(data)
    assert how == "none", how
    return data


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class Link:
    """In a file map: a symbolic (or hard) link member."""

    target: str
    hard: bool = False


Files = dict[str, "bytes | Link"]


@dataclass(frozen=True)
class ImageSpec:
    layers: Sequence[bytes]
    tags: Sequence[str] = ("test:latest",)
    config: Mapping[str, Any] = field(default_factory=dict)
    compress: str = field(default_factory=lambda: UNSAID.compress)

    @property
    def config_bytes(self) -> bytes:
        """Minimal amd64/linux config with right diff_ids; `config` replaces top-level keys."""
        base = {
            "architecture": "amd64",
            "os": "linux",
            "created": "2024-05-06T07:08:09Z",
            "config": {"Env": ["PATH=/bin"], "Cmd": ["/bin/sh"]},
            "rootfs": {"type": "layers", "diff_ids": ["sha256:" + sha256(x) for x in self.layers]},
            "history": [{"created_by": f"layer {i}"} for i in range(len(self.layers))],
        }
        return json.dumps({**base, **self.config}).encode()


def docker_files(images: Sequence[ImageSpec], style: str = "1.10") -> Files:
    """The members of a `docker save` of that age, in the order docker writes them."""
    if style == "1.9":
        return _docker_19(images)
    files: Files = {}
    manifest, index = [], []
    for image in images:
        names = []
        for i, layer in enumerate(image.layers):
            blob = compress(layer, image.compress)
            if style == "25":
                names.append(_blob(files, blob))
                continue
            directory = sha256(sha256(layer).encode() + b"%d" % i)
            name = f"{directory}/layer.tar"
            files[f"{directory}/VERSION"] = b"1.0"
            files[f"{directory}/json"] = json.dumps({"id": directory}).encode()
            first = next((n for n, f in files.items() if f == blob and n.endswith(".tar")), None)
            files.setdefault(name, Link("../" + first) if first and first != name else blob)
            names.append(name)
        config = image.config_bytes
        config_name = _blob(files, config) if style == "25" else sha256(config) + ".json"
        files[config_name] = config
        manifest.append({"Config": config_name, "RepoTags": list(image.tags), "Layers": names})
        if style == "25":
            index.extend(_oci_manifest(files, image))
    files["manifest.json"] = json.dumps(manifest).encode()
    if style == "25":
        files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": index}).encode()
        files["oci-layout"] = b'{"imageLayoutVersion": "1.0.0"}'
    return files


def _docker_19(images: Sequence[ImageSpec]) -> Files:
    files: Files = {}
    repositories: dict[str, dict[str, str]] = {}
    for image in images:
        config, parent = json.loads(image.config_bytes), ""
        for i, layer in enumerate(image.layers):
            ident = sha256(f"{parent} {sha256(layer)} {i}".encode())
            v1 = {"id": ident, "created": config["created"], "os": config["os"]}
            v1 |= {"architecture": config["architecture"], "config": config["config"]}
            v1 |= {"container_config": {"Cmd": [f"layer {i}"]}}
            if parent:
                v1["parent"] = parent
            files[f"{ident}/VERSION"] = b"1.0"
            files[f"{ident}/json"] = json.dumps(v1).encode()
            files[f"{ident}/layer.tar"] = compress(layer, image.compress)
            parent = ident
        for tag in image.tags:
            name, _, version = tag.rpartition(":")
            repositories.setdefault(name, {})[version] = parent
    files["repositories"] = json.dumps(repositories).encode()
    return files


def _blob(files: Files, data: bytes) -> str:
    name = "blobs/sha256/" + sha256(data)
    files[name] = data
    return name


def _descriptor(data: bytes, media_type: str, **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": "sha256:" + sha256(data), "size": len(data), **more}


def _oci_manifest(files: Files, image: ImageSpec) -> list[dict[str, Any]]:
    suffix = {"none": "", "gzip": "+gzip", "zstd": "+zstd"}.get(image.compress, "")
    config = image.config_bytes
    _blob(files, config)
    layers = [compress(layer, image.compress) for layer in image.layers]
    for layer in layers:
        _blob(files, layer)
    vendor = "application/vnd.oci.image."
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": vendor + "manifest.v1+json",
            "config": _descriptor(config, vendor + "config.v1+json"),
            "layers": [_descriptor(x, vendor + "layer.v1.tar" + suffix) for x in layers],
        }
    ).encode()
    _blob(files, manifest)
    parsed = json.loads(config)
    platform = {k: parsed[k] for k in ("architecture", "os", "variant") if k in parsed}
    return [
        _descriptor(
            manifest,
            vendor + "manifest.v1+json",
            platform=platform,
            **({"annotations": {"org.opencontainers.image.ref.name": tag}} if tag else {}),
        )
        for tag in (image.tags or ("",))
    ]


def oci_files(images: Sequence[ImageSpec], nested: str = "") -> Files:
    """An OCI layout.  nested: all images stand in one inner index of that tag."""
    files: Files = {"oci-layout": b'{"imageLayoutVersion": "1.0.0"}'}
    entries = [entry for image in images for entry in _oci_manifest(files, image)]
    if nested:
        kind = "application/vnd.oci.image.index.v1+json"
        inner = [{k: v for k, v in e.items() if k != "annotations"} for e in entries]
        index = json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": inner}).encode()
        _blob(files, index)
        note = {"org.opencontainers.image.ref.name": nested}
        entries = [_descriptor(index, kind, annotations=note)]
    files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": entries}).encode()
    return files


def write_archive(path: Path, files: Files, *, wrap: str = "none", reverse: bool = False) -> Path:
    tar = TarWriter("gnu")
    for name, data in reversed(files.items()) if reverse else files.items():
        if isinstance(data, Link):
            tar.add(name, "hardlink" if data.hard else "symlink", link=data.target)
        else:
            tar.file(name, data)
    path.write_bytes(compress(tar.tar(), wrap))
    return path


def write_directory(path: Path, files: Files) -> Path:
    for name, data in files.items():
        target = path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(data, Link):
            target.symlink_to(data.target)
        else:
            target.write_bytes(data)
    return path


def _specs(layers: Sequence[bytes], images: Sequence[ImageSpec], more: Any) -> list[ImageSpec]:
    return list(images) or [ImageSpec(layers, **more)]


def docker_archive(
    path: Path,
    layers: Sequence[bytes] = (),
    *,
    style: str = "1.10",
    images: Sequence[ImageSpec] = (),
    wrap: str = "none",
    reverse: bool = False,
    **more: Any,
) -> Path:
    files = docker_files(_specs(layers, images, more), style)
    return write_archive(path, files, wrap=wrap, reverse=reverse)


def oci_archive(
    path: Path,
    layers: Sequence[bytes] = (),
    *,
    images: Sequence[ImageSpec] = (),
    wrap: str = "none",
    reverse: bool = False,
    nested: str = "",
    **more: Any,
) -> Path:
    files = oci_files(_specs(layers, images, more), nested)
    return write_archive(path, files, wrap=wrap, reverse=reverse)


def oci_layout(
    path: Path,
    layers: Sequence[bytes] = (),
    *,
    images: Sequence[ImageSpec] = (),
    nested: str = "",
    **more: Any,
) -> Path:
    return write_directory(path, oci_files(_specs(layers, images, more), nested))
