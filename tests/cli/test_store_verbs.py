"""load, save, tag, rm, prune, verify, du, inspect and history on a store, as a user sees them."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from imagewriter import ImageSpec, docker_archive, oci_archive, oci_layout, sha256
from storecommand import LAYERS, ONE, OTHER, TWO, StoreCommand, store_command, two_images

from fusemount.cli.ages import human_size
from fusemount.digest import Digest, chain_ids
from fusemount.store import Store

ONE_ID, TWO_ID = sha256(ONE.config_bytes), sha256(TWO.config_bytes)
LOADED = "Loaded image: one:1\nLoaded image: one:latest\nLoaded image: other/two:x\n"


@pytest.fixture
def imgmount(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> StoreCommand:
    return store_command(tmp_path, monkeypatch, capsys)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return two_images(tmp_path / "two.tar")


@pytest.fixture
def filled(imgmount: StoreCommand, archive: Path) -> StoreCommand:
    imgmount("load", "-i", archive)
    return imgmount


def names(imgmount: StoreCommand) -> set[str]:
    return set(imgmount("ls", "--format", "{{.Repository}}:{{.Tag}}").split())


def process(root: Path, *words: str | Path, **more: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "fusemount", "--root", str(root), *map(str, words)],
        stderr=subprocess.PIPE, timeout=60, **more,  # type: ignore[call-overload]
    )  # fmt: skip


# ---- load -----------------------------------------------------------------------------------


def test_load_says_what_came(imgmount: StoreCommand, archive: Path, tmp_path: Path) -> None:
    assert imgmount("load", "-i", archive) == LOADED
    assert imgmount("load", "-q", archive) == LOADED
    nameless = oci_archive(tmp_path / "x.tar", images=[ImageSpec(OTHER, tags=())])
    found = imgmount("load", nameless)
    assert found == f"Loaded image ID: sha256:{sha256(ImageSpec(OTHER).config_bytes)}\n"
    other_name = docker_archive(
        tmp_path / "y.tar", images=[ImageSpec(LAYERS, tags=("new:1",), config=ONE.config)]
    )
    assert imgmount("load", other_name) == "Loaded image: new:1\n"  # it has more names here


@pytest.mark.parametrize("wrap", ["none", "gzip", "zstd", "xz"])
def test_load_takes_compressed_archives_and_pipes(
    imgmount: StoreCommand, tmp_path: Path, wrap: str
) -> None:
    path = docker_archive(tmp_path / "image", images=[ONE, TWO], wrap=wrap)
    assert imgmount("load", path) == LOADED
    imgmount("prune", "-af")
    done = process(imgmount.root, "load", input=path.read_bytes(), stdout=subprocess.PIPE)
    assert done.stdout.decode() == LOADED, done.stderr
    with open(path, "rb") as file:
        done = process(imgmount.root, "load", "-i", "-", stdin=file, stdout=subprocess.PIPE)
    assert done.stdout.decode() == LOADED, done.stderr
    assert not list((imgmount.root / "ingest").iterdir())
    assert imgmount("verify") == "2 images, 7 blobs: as they should be\n"


def test_load_takes_a_layouts_directory(imgmount: StoreCommand, tmp_path: Path) -> None:
    layout = oci_layout(tmp_path / "layout", images=[ImageSpec(LAYERS, tags=("full/name:1",))])
    assert imgmount("load", layout) == "Loaded image: full/name:1\n"


@pytest.mark.parametrize(
    ("data", "code", "named"),
    [(b"", 4, "nothing is in it"), (b"no tar at all" * 100, 4, "standard input"),
     (bytes(10240), 3, "no image in it")],
)  # fmt: skip
def test_load_refuses_what_is_no_image(
    imgmount: StoreCommand, data: bytes, code: int, named: str
) -> None:
    done = process(imgmount.root, "load", input=data, stdout=subprocess.PIPE)
    assert (done.returncode, done.stdout) == (code, b"")
    assert named in done.stderr.decode() and done.stderr.count(b"\n") == 1
    imgmount("load", "-i", "/nowhere.tar", code=3)


def test_images_that_were_complete_stay(imgmount: StoreCommand, tmp_path: Path) -> None:
    layout = oci_layout(tmp_path / "layout", images=[ONE, TWO])
    blob = layout / "blobs" / "sha256" / sha256(OTHER[1])
    blob.write_bytes(b"\1" + blob.read_bytes()[1:])
    assert imgmount("load", layout, code=5).split()[-1] == "one:latest"
    assert sha256(OTHER[1]) in imgmount.err
    assert names(imgmount) == {"one:1", "one:latest"}


# ---- save -----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["docker-archive", "oci-archive"])
def test_save_load_save_gives_the_same_bytes(
    filled: StoreCommand, tmp_path: Path, form: str
) -> None:
    filled("save", "one", "other/two:x", "--format", form, "-o", tmp_path / "a.tar")
    done = process(filled.root, "save", "one", "other/two:x", "--format", form,
                   stdout=subprocess.PIPE)  # fmt: skip
    assert done.stdout == (tmp_path / "a.tar").read_bytes()
    filled("prune", "-af")
    assert filled("load", tmp_path / "a.tar") == LOADED
    filled("save", "one", "other/two:x", "--format", form, "-o", tmp_path / "b.tar")
    assert (tmp_path / "b.tar").read_bytes() == (tmp_path / "a.tar").read_bytes()


def saved_tags(path: Path) -> list[list[str]]:
    with tarfile.open(path) as tar:
        file = tar.extractfile("manifest.json")
        assert file is not None
        return [entry["RepoTags"] for entry in json.load(file)]


def test_save_takes_the_names_that_it_was_asked_for(filled: StoreCommand, tmp_path: Path) -> None:
    def saved(*words: str) -> list[list[str]]:
        filled("save", *words, "-o", tmp_path / "x.tar")
        return saved_tags(tmp_path / "x.tar")

    assert saved("one:1") == [["one:1"]]
    assert saved("one") == [["one:1", "one:latest"]]
    assert saved(ONE_ID[:12]) == [[]]
    assert saved(ONE_ID[:12], "one:latest", "other/two:x") == [["one:latest"], ["other/two:x"]]


def test_save_keeps_a_layouts_other_images(filled: StoreCommand, tmp_path: Path) -> None:
    filled("save", "one:1", "-o", f"oci:{tmp_path}/layout")
    filled("save", "other/two:x", "--format", "oci", "-o", tmp_path / "layout")
    fresh = StoreCommand(tmp_path / "fresh", filled.capsys)
    assert fresh("load", tmp_path / "layout") == "Loaded image: one:1\nLoaded image: other/two:x\n"


def test_save_chooses_a_platform(imgmount: StoreCommand, tmp_path: Path) -> None:
    arm = ImageSpec(OTHER, config={"architecture": "arm64"})
    imgmount("load", oci_layout(tmp_path / "l", images=[ImageSpec(LAYERS), arm], nested="multi:1"))
    imgmount("save", "multi:1", "-o", tmp_path / "x.tar", code=3)
    assert "--platform" in imgmount.err
    imgmount("save", "multi:1", "--platform", "riscv64", "-o", tmp_path / "x.tar", code=6)
    imgmount("save", "multi:1", "--platform", "arm64", "-o", tmp_path / "x.tar")
    with tarfile.open(tmp_path / "x.tar") as tar:
        assert f"{sha256(arm.config_bytes)}.json" in tar.getnames()
    imgmount("save", "multi:1", "--format", "oci-archive", "-o", tmp_path / "y.tar")
    with tarfile.open(tmp_path / "y.tar") as tar:
        assert len([n for n in tar.getnames() if n.startswith("blobs/")]) == 8


def test_save_refuses_a_terminal(filled: StoreCommand) -> None:
    leader, follower = pty.openpty()
    done = process(filled.root, "save", "one", stdout=follower)
    os.close(follower)
    os.close(leader)
    assert done.returncode == 2
    assert b"terminal" in done.stderr and done.stderr.count(b"\n") == 1


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["one", "nope"], 3),
        (["one", "--format", "oci"], 2),
        (["one", "-o", "oci:x", "--format", "oci-archive"], 2),
        (["one", "--format", "zip", "-o", "x"], 2),
    ],
)
def test_save_errors(
    filled: StoreCommand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str],
    code: int,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    before = sorted(os.listdir())
    filled("save", *words, code=code)
    assert sorted(os.listdir()) == before


# ---- tag and rm -----------------------------------------------------------------------------


def test_tag(filled: StoreCommand) -> None:
    filled("tag", "one", "localhost:5000/x/y")
    filled("tag", TWO_ID[:10], "one:1")
    assert names(filled) == {"one:1", "one:latest", "other/two:x", "localhost:5000/x/y:latest"}
    assert filled("inspect", "-f", "{{.Id}}", "one:1").strip() == f"sha256:{TWO_ID}"
    filled("tag", "nope", "x", code=3)
    filled("tag", "one", "UPPER", code=2)
    filled("tag", "one", f"x@sha256:{ONE_ID}", code=2)


def test_rm_untags_then_deletes(filled: StoreCommand) -> None:
    assert filled("rm", "one:1") == "Untagged: one:1\n"
    top = chain_ids([Digest(f"sha256:{sha256(layer)}") for layer in LAYERS])[-1]
    out = filled("rmi", "one").splitlines()
    assert out[:2] == ["Untagged: one:latest", f"Deleted: sha256:{ONE_ID}"]
    assert out[-1] == f"Deleted: {top}"  # the shared layer below stays
    assert len(out) == 4
    assert filled("verify") == "1 image, 4 blobs: as they should be\n"


def test_rm_by_id_needs_force_where_names_are(filled: StoreCommand) -> None:
    assert filled("rm", ONE_ID[:12], code=13) == ""
    assert "one:1, one:latest" in filled.err and "--force" in filled.err
    out = filled("rm", "-f", ONE_ID[:12]).splitlines()
    assert out[:3] == ["Untagged: one:1", "Untagged: one:latest", f"Deleted: sha256:{ONE_ID}"]
    assert "all of its names go" in filled.err


def test_rm_goes_on_after_an_error(filled: StoreCommand) -> None:
    out = filled("rm", "one:1", "nope", "other/two:x", code=3)
    assert out.splitlines()[:2] == ["Untagged: one:1", "Untagged: other/two:x"]
    assert filled.err.count("\n") == 1 and "nope" in filled.err


def test_what_a_mount_shows_stays(filled: StoreCommand) -> None:
    store = Store(filled.root)
    image = store.find("one")
    with store.lease("mount", "one", "/mnt/x") as lease:
        lease.hold([image.digest, *(layer.digest for layer in image.summary.layers)])
        filled("rm", "one:1")
        filled("rm", "one", code=13)
        assert "/mnt/x" in filled.err and "--force" in filled.err
        assert "other/two:x" in filled("prune", "-af")
        assert names(filled) == {"one:latest"}
        rows = filled("du", "--format", "{{.Type}} {{.Active}} {{.Reclaimable}}").splitlines()
        assert rows[0] == "Images 1 0B (0%)"
        assert "Untagged: one:latest" in filled("rm", "-f", "one")
        assert "mounted at /mnt/x" in filled.err
        assert store.layout.blob(image.summary.layers[0].digest).exists()


def test_digests_go_with_the_last_tag_of_their_repository(filled: StoreCommand) -> None:
    store = Store(filled.root)
    image = store.find("one")
    digest = f"docker.io/library/one@{image.digest}"
    store.add(image.descriptor, [store.name("other:1")], [digest])
    assert filled("rm", "one:1") == "Untagged: one:1\n"
    assert filled("rm", "one").splitlines() == [
        "Untagged: one:latest", f"Untagged: one@{image.digest}",
    ]  # fmt: skip
    assert store.find("other:1").repo_digests == ()


# ---- prune ----------------------------------------------------------------------------------


def test_prune_takes_what_has_no_name(filled: StoreCommand) -> None:
    assert filled("prune", "-f") == "Total reclaimed space: 0B\n"
    filled("tag", "one", "other/two:x")
    lines = filled("prune", "--force").splitlines()
    assert lines[:2] == ["Deleted Images:", f"deleted: sha256:{TWO_ID}"]
    assert lines[-2] == "" and lines[-1].startswith("Total reclaimed space: ")
    assert names(filled) == {"one:1", "one:latest", "other/two:x"}


def test_prune_takes_all_that_pass_the_filter(filled: StoreCommand) -> None:
    filled("prune", "-af", "--filter", "label=nope")
    filled("prune", "-af", "--filter", "until=2024-01-01")
    filled("prune", "-af", "--filter", "label=k", "--filter", "label!=k=v")
    assert len(names(filled)) == 3
    assert "untagged: other/two:x" in filled("prune", "-af", "--filter", "label!=z", "--filter",
                                             "label=k").splitlines()  # fmt: skip
    assert "untagged: one:1" in filled("prune", "-af", "--filter", "until=24h").splitlines()
    filled("prune", "--filter", "dangling=true", code=2)


def test_prune_asks(filled: StoreCommand) -> None:
    filled("tag", "one", "other/two:x")
    for answer in (b"", b"n\n", b"yes\n"):
        done = process(filled.root, "prune", input=answer, stdout=subprocess.PIPE)
        assert b"WARNING! This will remove all images without a name.\n" in done.stdout
        assert b"[y/N] " in done.stdout
        assert done.stdout.endswith(b"Total reclaimed space: 0B\n")
    done = process(filled.root, "prune", input=b"y\n", stdout=subprocess.PIPE)
    assert f"deleted: sha256:{TWO_ID}".encode() in done.stdout


# ---- verify and du --------------------------------------------------------------------------


def test_verify_names_each_mismatch(filled: StoreCommand) -> None:
    blob = filled.root / "blobs" / "sha256" / sha256(OTHER[1])
    blob.write_bytes(b"\1" + blob.read_bytes()[1:])
    lost = filled.root / "blobs" / "sha256" / ("0" * 64)
    lost.write_bytes(b"")
    out = filled("verify", code=5).splitlines()
    assert any(line.startswith(f"blobs/sha256/{blob.name}: digest is") for line in out)
    assert any(line.startswith("other/two:x: blob") for line in out)
    assert "mismatches in 2 images" in filled.err
    assert filled("verify", "one") == "1 image, 4 blobs: as they should be\n"
    filled("verify", "other/two:x", code=5)
    filled("verify", "nope", code=3)


def test_verify_tells_what_nothing_leads_to(filled: StoreCommand) -> None:
    data = b"nobody's"
    (filled.root / "blobs" / "sha256" / sha256(data)).write_bytes(data)
    assert filled("verify").splitlines() == [
        f"blobs/sha256/{sha256(data)}: nothing leads to it (imgmount prune)",
        "2 images, 8 blobs: as they should be",
    ]
    assert json.loads(filled("verify", "--json"))["unreached"] == [f"blobs/sha256/{sha256(data)}"]
    assert filled("verify", "-q") == ""
    filled("prune", "-f")
    assert filled("verify").count("\n") == 1


def test_du_tells_shared_from_unique(filled: StoreCommand) -> None:
    found = json.loads(filled("du", "--json"))
    one, two = (next(i for i in found["Images"] if i["Id"] == f"sha256:{ident}")
                for ident in (ONE_ID, TWO_ID))  # fmt: skip
    assert one["SharedSize"] == two["SharedSize"] == len(LAYERS[0])
    blobs = [p.stat().st_size for p in (filled.root / "blobs" / "sha256").iterdir()]
    assert one["SharedSize"] + one["UniqueSize"] + two["UniqueSize"] == sum(blobs)
    assert found["ImagesSize"] == found["Reclaimable"] == sum(blobs)
    size = human_size(sum(blobs))
    head, images, *_ = filled("du").splitlines()
    assert head.split() == ["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"]
    assert images.split() == ["Images", "2", "0", size, size, "(100%)"]
    lines = filled("du", "-v").splitlines()
    assert lines[0] == "Images space usage:"
    assert lines[2].split()[-5:] == ["SHARED", "SIZE", "UNIQUE", "SIZE", "MOUNTS"]
    assert [line.split()[0] for line in lines[3:6]] == ["other/two", "one", "one"]


# ---- inspect and history --------------------------------------------------------------------


def test_inspect_never_confuses_digests(imgmount: StoreCommand, tmp_path: Path) -> None:
    layout = oci_layout(tmp_path / "layout", images=[ImageSpec(LAYERS, compress="gzip")])
    imgmount("load", layout)
    (entry,) = json.loads((layout / "index.json").read_bytes())["manifests"]
    manifest = json.loads((layout / "blobs/sha256" / entry["digest"][7:]).read_bytes())
    (found,) = json.loads(imgmount("inspect", "test:latest"))
    diff_ids = [Digest(f"sha256:{sha256(layer)}") for layer in LAYERS]
    assert found["Id"] == manifest["config"]["digest"]
    assert found["ManifestDigest"] == entry["digest"]
    assert found["RepoDigests"] == []
    assert found["RootFS"]["Layers"] == diff_ids
    assert found["ChainIDs"] == list(chain_ids(diff_ids))
    assert found["Size"] == sum(map(len, LAYERS))
    for i, layer in enumerate(found["Layers"]):
        assert layer == {
            "DiffID": diff_ids[i],
            "ChainID": chain_ids(diff_ids)[i],
            "Digest": manifest["layers"][i]["digest"],
            "MediaType": manifest["layers"][i]["mediaType"],
            "Size": manifest["layers"][i]["size"],
            "ArchiveSize": len(LAYERS[i]),
            "CacheID": manifest["layers"][i]["digest"][7:],
        }
    assert imgmount("history", "--format", "{{.Size}}", "-H", "false", "test").split() == [
        str(len(layer)) for layer in reversed(LAYERS)
    ]


def test_inspect_of_several_shows_those_that_are_there(filled: StoreCommand) -> None:
    found = json.loads(filled("inspect", "one:1", "nope", "other/two:x", code=3))
    assert [each["Id"][7:] for each in found] == [ONE_ID, TWO_ID]
    assert filled("inspect", "-f", "{{.Config.Cmd}}{{.Config.Entrypoint}}{{.Config.User}}", "one",
                  "other/two:x") == "[/bin/sh][]\n[/bin/sh -c][]\n"  # fmt: skip
    filled("inspect", "-f", "{{.Config.Nope}}", "one", code=2)
    assert ".Config.Nope" in filled.err


def test_inspect_takes_a_file_as_before(imgmount: StoreCommand, archive: Path) -> None:
    assert imgmount("inspect", archive, code=3) == ""  # two images, and none is named
    assert imgmount("inspect", "-f", "{{(index .Layers 0).DiffID}} {{index .RepoTags 0}}",
                    f"{archive}:one:1") == f"sha256:{sha256(LAYERS[0])} one:1\n"  # fmt: skip
    assert not imgmount.root.exists()
