"""Law: hostile documents raise MalformedImage; platforms match as in containerd."""

from __future__ import annotations

import json
from typing import Any

import pytest
from imagewriter import ImageSpec

from fusemount.errors import MalformedImage, UsageError
from fusemount.image.fields import DOCUMENT_BYTES_MAX, parse_json
from fusemount.image.model import Index, Manifest
from fusemount.image.parse import (
    LAYERS_MAX,
    parse_config,
    parse_docker_manifests,
    parse_index_or_manifest,
    parse_repositories,
)
from fusemount.image.platforms import normalised, parse_platform, rank
from fusemount.settings import Platform

LAYERS_TWICE = b'{"schemaVersion": 2, "layers": [], "layers": []}'
DIGEST = "sha256:" + "a" * 64
DESCRIPTOR = {"mediaType": "x", "digest": DIGEST, "size": 3}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"nonsense",
        b"{",
        b'{"a": 1} x',
        b"\xff\xfe{\0}\0",
        b'{"a": "\xe9"}',
        b'{"a": NaN}',
        b'{"a": 1e999}',
        b'{"a": [-1e999]}',
        b"[" * 200 + b"]" * 200,
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"a": ' + b"9" * 5000 + b"}",
        b'"' + b"x" * DOCUMENT_BYTES_MAX + b'"',
    ],
    ids=lambda data: repr(data[:12]),
)
def test_t24_what_is_no_json_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedImage, match=r"^where: "):
        parse_json(data, "where")


def test_t24_half_a_surrogate_becomes_printable() -> None:
    found = parse_json(rb'{"k\udc00": ["a\ud800b", "\ud83d\ude00"]}', "w")
    assert found == {"k\ufffd": ["a\ufffdb", "\U0001f600"]}
    str(found).encode()


@pytest.mark.parametrize(
    "change",
    [
        {"config": None},
        {"config": []},
        {"config": {**DESCRIPTOR, "digest": "md5:1"}},
        {"config": {**DESCRIPTOR, "digest": 7}},
        {"config": {**DESCRIPTOR, "size": -1}},
        {"config": {**DESCRIPTOR, "size": 1 << 63}},
        {"config": {**DESCRIPTOR, "size": "3"}},
        {"config": {**DESCRIPTOR, "size": True}},
        {"config": {**DESCRIPTOR, "annotations": {"a": 1}}},
        {"config": {**DESCRIPTOR, "platform": "linux"}},
        {"layers": {}},
        {"layers": [1]},
        {"layers": [DESCRIPTOR] * (LAYERS_MAX + 1)},
        {"schemaVersion": 1},
        {"fsLayers": []},
    ],
    ids=str,
)
def test_t24_hostile_manifest(change: dict[str, Any]) -> None:
    good = {"schemaVersion": 2, "config": DESCRIPTOR, "layers": [DESCRIPTOR]}
    assert isinstance(parse_index_or_manifest(json.dumps(good).encode(), "w"), Manifest)
    with pytest.raises(MalformedImage, match=r"^w: ") as caught:
        parse_index_or_manifest(json.dumps(good | change).encode(), "w")
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "change",
    [
        {"rootfs": []},
        {"rootfs": {"type": "tree", "diff_ids": []}},
        {"rootfs": {"type": "layers", "diff_ids": [1]}},
        {"rootfs": {"type": "layers", "diff_ids": ["sha512:1"]}},
        {"architecture": 1},
        {"config": []},
        {"config": {"Env": [1]}},
        {"config": {"Entrypoint": {}}},
        {"config": {"Labels": {"a": []}}},
        {"config": {"Volumes": []}},
        {"history": {}},
        {"history": [[]]},
        {"history": [{"empty_layer": "yes"}]},
    ],
    ids=str,
)
def test_t24_hostile_config(change: dict[str, Any]) -> None:
    good = ImageSpec([b"layer"])
    assert parse_config(good.config_bytes, "w").diff_ids
    with pytest.raises(MalformedImage, match=r"^w: "):
        parse_config(ImageSpec([b"layer"], config=change).config_bytes, "w")


def test_m14_config_says_what_docker_run_needs() -> None:
    spec = ImageSpec(
        [b"layer"],
        config={
            "variant": "v3",
            "config": {
                "User": "u:g",
                "Env": ["A=1"],
                "Entrypoint": [],
                "Cmd": None,
                "WorkingDir": "/w",
                "Volumes": {"/v": {}},
                "ExposedPorts": {"80/tcp": {}},
                "Labels": None,
            },
        },
    )
    config = parse_config(spec.config_bytes, "w")
    assert config.platform == Platform("linux", "amd64", "v3")
    box = config.container
    assert (box.user, box.env, box.working_dir) == ("u:g", ("A=1",), "/w")
    assert box.entrypoint == () and box.cmd is None and box.labels == {}
    assert box.volumes == ("/v",) and box.exposed_ports == ("80/tcp",)


@pytest.mark.parametrize(
    "data", [b"{}", b"[1]", b"[{}]", b'[{"Config": 1}]', b'[{"Config": "c", "Layers": [1]}]']
)
def test_t24_hostile_docker_manifest(data: bytes) -> None:
    with pytest.raises(MalformedImage, match=r"^w"):
        parse_docker_manifests(data, "w")


@pytest.mark.parametrize("data", [b"[]", b'{"a": 1}', b'{"a": {"t": 1}}'])
def test_t24_hostile_repositories(data: bytes) -> None:
    with pytest.raises(MalformedImage, match=r"^w"):
        parse_repositories(data, "w")


def test_m14_index_told_by_type_or_by_shape() -> None:
    entry = {**DESCRIPTOR, "platform": {"os": "unknown", "architecture": "unknown"}}
    data = json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()
    index = parse_index_or_manifest(data, "w")
    assert isinstance(index, Index) and index.manifests[0].is_attestation


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("linux/amd64", "linux/amd64"),
        ("linux/x86_64", "linux/amd64"),
        ("arm64", "linux/arm64"),
        ("linux/arm64/v8", "linux/arm64"),
        ("linux/aarch64", "linux/arm64"),
        ("linux/arm", "linux/arm/v7"),
        ("linux/armhf", "linux/arm/v7"),
        ("linux/arm/6", "linux/arm/v6"),
        ("Windows/AMD64", "windows/amd64"),
    ],
)
def test_m14_platform_words(text: str, expected: str) -> None:
    assert str(parse_platform(text)) == expected


@pytest.mark.parametrize("text", ["", "/", "a/b/c/d", "linux/"])
def test_m14_platform_that_is_none(text: str) -> None:
    with pytest.raises(UsageError):
        parse_platform(text)


def test_m14_platform_rank() -> None:
    def order(wanted: str, *found: str) -> list[int | None]:
        return [rank(parse_platform(f), parse_platform(wanted)) for f in found]

    best, second, never = order("linux/arm/v7", "linux/arm/v7", "linux/arm/v6", "linux/arm64")
    assert best == 0 and second == 1 and never is None
    arm64 = order("linux/arm64", "linux/arm64/v8", "linux/arm/v7", "linux/amd64")
    assert arm64[0] == 0 and arm64[1] is not None and arm64[2] is None
    assert order("linux/amd64", "linux/amd64/v1", "linux/386", "linux/amd64/v3") == [0, 1, None]
    assert order("linux/amd64/v3", "linux/amd64/v2", "linux/amd64", "linux/386") == [1, 2, 3]
    unsaid = rank(Platform("", ""), parse_platform("amd64"))
    assert unsaid is not None and unsaid > 1
    assert normalised(Platform("linux", "arm64", "v8")) == Platform("linux", "arm64")


@pytest.mark.parametrize("key", ["LAYERS", "Layers", "layer\u017f"])
def test_a_key_that_other_programs_take_for_a_field(key: str) -> None:
    """Go's encoding/json knows fields in any case: docker would run other layers than are shown."""
    config = DESCRIPTOR | {"mediaType": "application/vnd.oci.image.config.v1+json"}
    manifest = {"schemaVersion": 2, "config": config, "layers": [DESCRIPTOR], key: [DESCRIPTOR]}
    data = json.dumps(manifest).encode()
    with pytest.raises(MalformedImage, match="layers: spelled"):
        parse_index_or_manifest(data, "x", "application/vnd.oci.image.manifest.v1+json")


def test_a_key_that_stands_twice() -> None:
    with pytest.raises(MalformedImage, match="the key layers stands twice"):
        parse_json(LAYERS_TWICE, "x")


def test_labels_differ_by_case() -> None:
    labels = {"a": "1", "A": "2"}
    config = {"architecture": "amd64", "os": "linux", "config": {"Labels": labels},
              "rootfs": {"type": "layers", "diff_ids": []}}  # fmt: skip
    assert parse_config(json.dumps(config).encode(), "x").container.labels == labels


def test_an_ambiguous_document() -> None:
    both = {"schemaVersion": 2, "manifests": [], "layers": [], "config": DESCRIPTOR}
    for kind in ("manifest", "index"):
        with pytest.raises(MalformedImage, match="ambiguous"):
            media_type = f"application/vnd.oci.image.{kind}.v1+json"
            parse_index_or_manifest(json.dumps(both).encode(), "x", media_type)
