"""Checks the limits of the number and size of documents: one line of error beyond them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hostile import Answer, Hostile
from imagewriter import (
    ImageSpec,
    docker_files,
    oci_files,
    sha256,
    write_archive,
    write_directory,
)
from servedimage import ServedImage
from tarwriter import TarWriter

from fusemount.cli.main import main
from fusemount.errors import ImageNotFound, ImgmountError, MalformedImage, VerificationFailed
from fusemount.image.model import OCI, ImageConfig
from fusemount.image.parse import parse_config

LAYER = TarWriter().file("f", b"x").tar()
HUGE = 1 << 41  # bytes of a sparse file: more than any memory


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for what in ("CACHE", "STATE", "RUNTIME", "ROOT"):
        monkeypatch.setenv(f"IMGMOUNT_{what}_DIR", str(tmp_path / what.lower()))
    return tmp_path / "root"


def described(digest: str, size: int, kind: str = "manifest") -> dict[str, Any]:
    return {"mediaType": f"{OCI}{kind}.v1+json", "digest": digest, "size": size}


def index(*entries: dict[str, Any]) -> bytes:
    return json.dumps({"schemaVersion": 2, "mediaType": f"{OCI}index.v1+json",
                       "manifests": list(entries)}).encode()  # fmt: skip


def refused(
    capsys: pytest.CaptureFixture[str],
    told: str,
    *words: str | Path,
    error: type[ImgmountError] = MalformedImage,
) -> None:
    assert main([*map(str, words)]) == error.exit_code, capsys.readouterr()
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line, line


def test_a_document_that_is_a_layer_of_any_size(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digest = "sha256:" + sha256(b"huge")
    files = oci_files([ImageSpec([LAYER], tags=("t",))])
    write_directory(tmp_path / "oci", files)
    assert main(["load", "-q", str(tmp_path / "oci")]) == 0
    with open(own / "blobs/sha256" / sha256(b"huge"), "wb") as file:
        os.truncate(file.fileno(), HUGE)
    (own / "index.json").write_bytes(index(described(digest, HUGE)))
    capsys.readouterr()
    for words in (
        ["inspect", digest],
        ["history", digest],
        ["save", "-o", tmp_path / "out", digest],
    ):
        refused(capsys, "4194304", *words)


def test_a_config_that_is_a_layer_of_the_store(
    own: Path, tmp_path: Path, server: Hostile, capsys: pytest.CaptureFixture[str]
) -> None:
    image = ServedImage(server, oci_files([ImageSpec([LAYER], tags=("t",))]), "a", "t")
    blob = own / "blobs/sha256" / image.config.removeprefix("sha256:")
    assert main(["pull", "-q", image.name]) == 0
    blob.unlink()
    with open(blob, "wb") as file:
        os.truncate(file.fileno(), HUGE)
    assert main(["pull", "-q", image.name]) == 0, capsys.readouterr()
    assert blob.read_bytes() == image.bytes_of(image.config)


def test_indexes_that_list_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = (f"sha256:{sha256(name)}" for name in (b"one", b"two"))
    files = oci_files([ImageSpec([LAYER], tags=("t",))])
    files["index.json"] = index(described(one, 1, "index"))
    files[f"blobs/sha256/{one[7:]}"] = index(described(two, 1, "index"))
    files[f"blobs/sha256/{two[7:]}"] = index(described(one, 1, "index"))
    files["manifest.json"] = b"[]"  # so that both are compared
    write_directory(tmp_path / "oci", files)
    refused(capsys, "its reference says", "load", tmp_path / "oci", error=VerificationFailed)
    refused(capsys, "nested over 8 deep", "dump", "--no-verify", f"oci:{tmp_path / 'oci'}")


def test_one_manifest_listed_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fusemount.sources.medium.READ_BYTES_MAX", 100_000)
    files = oci_files([ImageSpec([LAYER], tags=("t",))])
    (top,) = json.loads(bytes(files["index.json"]))["manifests"]  # type: ignore[arg-type]
    files["index.json"] = index(*[top] * 300)
    write_directory(tmp_path / "oci", files)
    assert main(["dump", str(tmp_path / "oci")]) == 0  # each reads the manifest once
    assert main(["load", "-q", str(tmp_path / "oci")]) == 0


def test_manifests_that_come_in_are_held_at_once(
    server: Hostile, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fusemount.transfer.documents.DOCUMENTS_BYTES_MAX", 10_000)
    image = ServedImage(server, oci_files([ImageSpec([LAYER], tags=("t",))]), "a", "t")
    (manifest,) = [image.bytes_of(image.digest)]
    entry = described(image.digest, len(manifest))
    server.on(
        image.manifest, Answer(200, index(*[entry] * 100), {"Content-Type": f"{OCI}index.v1+json"})
    )
    limit = "10000 bytes of manifests and configs, the limit"
    refused(capsys, limit, "pull", "-q", "--all-platforms", image.name)


def test_a_config_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A config of 4 MiB takes half a second, and a small index names its manifest 10,000 times."""
    read: list[bytes] = []

    def parse(data: bytes, where: str) -> ImageConfig:
        read.append(data)
        return parse_config(data, where)

    monkeypatch.setattr("fusemount.transfer.documents.parse_config", parse)
    files = oci_files([ImageSpec([LAYER], tags=("t",))])
    (top,) = json.loads(bytes(files["index.json"]))["manifests"]  # type: ignore[arg-type]
    inner = index(*[top] * 50)
    digest = f"sha256:{sha256(inner)}"
    files[f"blobs/sha256/{digest[7:]}"] = inner
    files["index.json"] = index(*[described(digest, len(inner), "index")] * 3)
    write_directory(tmp_path / "oci", files)
    assert main(["load", "-q", str(tmp_path / "oci")]) == 0
    assert len(read) == 1


def test_a_tar_of_too_many_members(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The names of all members of an archive are in memory at once."""
    monkeypatch.setattr("fusemount.sources.medium.MEMBERS_MAX", 100)
    files = oci_files([ImageSpec([LAYER], tags=("t",))])
    archive = write_archive(tmp_path / "many.tar", {f"{i}": b"" for i in range(100)} | files)
    told = "members, an archive of images has at most 100"
    refused(capsys, told, "load", archive, error=ImageNotFound)
    refused(capsys, told, "dump", f"oci-archive:{archive}", error=ImageNotFound)


@pytest.mark.parametrize("form", ["oci", "docker-archive"])
def test_a_choice_reads_each_config_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    read: list[bytes] = []

    def parse(data: bytes, where: str) -> ImageConfig:
        read.append(data)
        return parse_config(data, where)

    for module in ("oci", "docker_archive", "image"):
        monkeypatch.setattr(f"fusemount.sources.{module}.parse_config", parse)
    spec = ImageSpec([LAYER], tags=("t",))
    if form == "oci":
        files = oci_files([spec])
        (top,) = json.loads(bytes(files["index.json"]))["manifests"]  # type: ignore[arg-type]
        manifest = json.loads(bytes(files[f"blobs/sha256/{top['digest'][7:]}"]))  # type: ignore[arg-type]
        entries = []
        for i in range(50):  # all with one config
            data = json.dumps(manifest | {"annotations": {"i": f"{i}"}}).encode()
            files[f"blobs/sha256/{sha256(data)}"] = data
            entries += [described(f"sha256:{sha256(data)}", len(data))] * 2
        files["index.json"] = index(*entries)
    else:
        files = docker_files([spec], "1.10")
        (output,) = json.loads(bytes(files["manifest.json"]))  # type: ignore[arg-type]
        images = [output | {"RepoTags": ["t:1"], "Layers": output["Layers"] * i} for i in range(50)]
        files["manifest.json"] = json.dumps(images).encode()
    write_archive(tmp_path / "in.tar", files)
    assert main(["inspect", f"{form.replace('oci', 'oci-archive')}:{tmp_path / 'in.tar'}"]) in (
        0,
        3,
    )
    assert 1 <= len(read) <= 2
