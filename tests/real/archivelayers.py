"""Finds and decompresses the layers of an image file with GNU tar, gzip and zstd.

Law: the oracle's way into an image shares no code with fusemount.sources or fusemount.layer.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from oracle import run

_TOOLS = {b"\x1f\x8b": "gzip", b"\x28\xb5": "zstd"}


def unwrap(image: Path, into: Path) -> Path:
    """The directory of the image's files: a layout, or a new one with an archive's members."""
    if image.is_dir():
        return image
    into.mkdir()
    run("tar", "-x", "-C", into, "-f", image)
    return into


def blobs(files: Path, tag: str) -> list[Path]:
    """The layer files of the named image, bottom first, still compressed as in the archive."""
    if (files / "manifest.json").exists():
        for image in json.loads((files / "manifest.json").read_text()):
            if any(name.endswith(tag) for name in image["RepoTags"]):
                return [files / layer for layer in image["Layers"]]
        raise AssertionError(f"no {tag} in manifest.json")
    manifests = json.loads((files / "index.json").read_text())["manifests"]
    named = [m for m in manifests if tag.endswith(_name(m))] if len(manifests) > 1 else manifests
    (chosen,) = named
    manifest = json.loads(_blob(files, chosen["digest"]).read_text())
    return [_blob(files, layer["digest"]) for layer in manifest["layers"]]


def _name(descriptor: dict[str, dict[str, str]]) -> str:
    return descriptor["annotations"]["org.opencontainers.image.ref.name"]


def _blob(files: Path, digest: str) -> Path:
    return files / "blobs" / digest.replace(":", "/")


def compression(blob: Path) -> str:
    """The name of the tool that decompresses the file, "" for an uncompressed tar."""
    with open(blob, "rb") as f:
        return _TOOLS.get(f.read(2), "")


def plain(blob: Path) -> bytes:
    """The layer's uncompressed tar."""
    tool = compression(blob)
    if not tool:
        return blob.read_bytes()
    return subprocess.run([tool, "-dc", blob], stdout=-1, check=True, timeout=120).stdout
