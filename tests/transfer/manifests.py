"""Writes manifests that imagewriter does not: Docker's media types, indexes, attestations."""

from __future__ import annotations

import json

from imagewriter import Files, ImageSpec, oci_files, sha256
from storing import layer

from fusemount.digest import Digest

OCI = "application/vnd.oci.image."
PLATFORMS = ("amd64", "arm64", "s390x")


def platforms(*more: dict[str, object]) -> Files:
    """An index of three images, and further entries."""
    shared = layer("shared", 4000)
    images = [
        ImageSpec([shared, layer(arch)], config={"architecture": arch}, compress="gzip")
        for arch in PLATFORMS
    ]
    files = oci_files(images, nested="multi")
    if more:
        (top,) = json.loads(bytes_of(files, "index.json"))["manifests"]
        index = json.loads(bytes_of(files, "blobs/" + top["digest"].replace(":", "/")))
        for entry in more:
            data = entry.pop("data")
            assert isinstance(data, bytes)
            files["blobs/sha256/" + sha256(data)] = data
            index["manifests"].append(entry | {"digest": Digest.of(data), "size": len(data)})
        new = json.dumps(index).encode()
        files["blobs/sha256/" + sha256(new)] = new
        top |= {"digest": Digest.of(new), "size": len(new)}
        files["index.json"] = json.dumps({"manifests": [top]}).encode()
    return files


def attestation() -> tuple[Files, dict[str, object]]:
    """As BuildKit writes it: without a platform, its layer a statement."""
    statement, config = b'{"_type":"https://in-toto.io/Statement/v0.1"}', b"{}"
    config = json.dumps({
        "architecture": "unknown", "os": "unknown", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [Digest.of(statement)]},
    }).encode()  # fmt: skip
    manifest = json.dumps({
        "schemaVersion": 2, "mediaType": OCI + "manifest.v1+json",
        "config": {"mediaType": OCI + "config.v1+json", "digest": Digest.of(config),
                   "size": len(config)},
        "layers": [{"mediaType": "application/vnd.in-toto+json", "size": len(statement),
                    "digest": Digest.of(statement)}],
    }).encode()  # fmt: skip
    files: Files = {f"blobs/sha256/{sha256(data)}": data for data in (statement, config)}
    entry = {
        "mediaType": OCI + "manifest.v1+json", "data": manifest,
        "platform": {"architecture": "unknown", "os": "unknown"},
        "annotations": {"vnd.docker.reference.type": "attestation-manifest"},
    }  # fmt: skip
    return files, entry


def dockers(files: Files) -> Files:
    """The one manifest, with Docker's media types."""
    data = json.dumps(json.loads(bytes_of(files, "index.json"))["manifests"][0]["digest"])
    name = "blobs/" + json.loads(data).replace(":", "/")
    manifest = json.loads(bytes_of(files, name))
    docker = "application/vnd.docker."
    manifest["mediaType"] = docker + "distribution.manifest.v2+json"
    manifest["config"]["mediaType"] = docker + "container.image.v1+json"
    for each in manifest["layers"]:
        each["mediaType"] = docker + "image.rootfs.diff.tar"
    new = json.dumps(manifest).encode()
    entry = {"mediaType": manifest["mediaType"], "digest": Digest.of(new), "size": len(new)}
    index = json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()
    left = {key: value for key, value in files.items() if key != name}
    return left | {"blobs/sha256/" + Digest.of(new).hex: new, "index.json": index}


def bytes_of(files: Files, name: str) -> bytes:
    data = files[name]
    assert isinstance(data, bytes)
    return data
