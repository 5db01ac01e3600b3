"""Stores in the layout of docker and containers/storage, made by hand, for tests of damaged stores.

The layers are directories that the caller has filled.  tests/real has stores of the real programs.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fusemount.digest import Digest, chain_ids


def config_of(diff_ids: Sequence[str], **more: Any) -> bytes:
    document = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": ["/bin/sh"]},
        "rootfs": {"type": "layers", "diff_ids": list(diff_ids)},
        "history": [{"created_by": f"layer {i}"} for i in range(len(diff_ids))],
    }
    return json.dumps(document | more).encode()


def diff_id(text: str) -> Digest:
    return Digest.of(text.encode())


def tar_split(*entries: dict[str, Any]) -> bytes:
    return gzip.compress(b"".join(json.dumps(entry).encode() + b"\n" for entry in entries))


def write(path: Path, data: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)


class DockerRoot:
    """A data root. An image has the layers `<name>0`, `<name>1`, ..., each with a file so named."""

    def __init__(self, root: Path, driver: str = "overlay2") -> None:
        self.root, self.driver = root, driver
        self.image = root / "image" / driver
        self.names: dict[str, dict[str, str]] = {}
        write(self.image / "repositories.json", '{"Repositories":{}}')

    def add(self, name: str, *references: str, layers: int = 2, **config: Any) -> str:
        """Its ID; references: NAME:TAG or NAME@DIGEST."""
        diff_ids = [diff_id(f"{name}{i}") for i in range(layers)]
        data = config_of(diff_ids, **config)
        ident = Digest.of(data)
        write(self.image / "imagedb/content/sha256" / ident.hex, data)
        parent = ""
        for i, (each, chain) in enumerate(zip(diff_ids, chain_ids(diff_ids), strict=True)):
            self.add_layer(self.layer(chain), f"{name}{i}", each, parent)
            parent = chain
        for reference in references:
            repository = reference.partition("@")[0].rpartition(":")[0] or reference.split("@")[0]
            self.names.setdefault(repository, {})[reference] = ident
        write(self.image / "repositories.json", json.dumps({"Repositories": self.names}))
        return ident

    def layer(self, chain: Digest) -> Path:
        return self.image / "layerdb/sha256" / chain.hex

    def add_layer(self, place: Path, name: str, diff_id: str, parent: str = "") -> None:
        files = {"diff": diff_id, "cache-id": f"cache-{name}", "size": "7"}
        for key, value in (files | ({"parent": parent} if parent else {})).items():
            write(place / key, value)
        write(self.tree(name) / name, name)

    def tree(self, layer: str) -> Path:
        inside = f"dir/cache-{layer}" if self.driver == "vfs" else f"cache-{layer}/diff"
        return self.root / self.driver / inside


class ContainersRoot:
    """A graph root of containers/storage. Layers as in DockerRoot; their IDs are `id-<name>0`."""

    def __init__(self, root: Path, driver: str = "overlay") -> None:
        self.root, self.driver = root, driver
        self.images: list[dict[str, Any]] = []
        self.layers: list[dict[str, Any]] = []
        self.save()

    def save(self) -> None:
        write(self.root / f"{self.driver}-images/images.json", json.dumps(self.images))
        write(self.root / f"{self.driver}-layers/layers.json", json.dumps(self.layers))

    def add(self, name: str, *names: str, below: str = "", below_ids: Sequence[str] = ()) -> str:
        """Two layers; below: a layer of this or another store that is below them; below_ids: the
        diff_ids up to that layer."""
        diff_ids = [*below_ids, diff_id(f"{name}0"), diff_id(f"{name}1")]
        parent = below
        for i in range(2):
            record: dict[str, Any] = {"id": f"id-{name}{i}", "diff-size": 1024}
            record["diff-digest"] = diff_id(f"{name}{i}")
            self.layers.append(record | ({"parent": parent} if parent else {}))
            parent = record["id"]
            write(self.tree(parent) / f"{name}{i}", name)
        data = config_of(diff_ids)
        digest = Digest.of(data)
        config = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest}
        manifest = json.dumps({"schemaVersion": 2, "config": config, "layers": []}).encode()
        self.document(digest.hex, digest, data)
        self.document(digest.hex, "manifest", manifest)
        image = {"id": digest.hex, "names": list(names), "layer": parent}
        self.images.append(image | {"digest": Digest.of(manifest)})
        self.save()
        return digest.hex

    def document(self, ident: str, key: str, data: bytes) -> None:
        plain = all(c in ".0123456789abcdefghijklmnopqrstuvwxyz" for c in key)
        name = key if plain else "=" + base64.b64encode(key.encode()).decode()
        write(self.root / f"{self.driver}-images" / ident / name, data)

    def tree(self, layer: str) -> Path:
        inside = f"dir/{layer}" if self.driver == "vfs" else f"{layer}/diff"
        return self.root / self.driver / inside
