"""Law: any bytes give an image or a clear error, and no other exception."""

from __future__ import annotations

import json
import os
import random
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from imagewriter import (
    ImageSpec,
    Link,
    docker_archive,
    docker_files,
    oci_archive,
    oci_files,
    oci_layout,
    write_archive,
    write_directory,
)
from tarwriter import TarWriter

from fusemount.errors import ImageNotFound, ImgmountError, MalformedImage
from fusemount.layer import SilentProgress, open_layers
from fusemount.settings import Directories, ImageOptions, Platform
from fusemount.sources import Image
from fusemount.sources.medium import Directory

AMD64 = Platform("linux", "amd64")
LAYERS = [
    TarWriter().dir("etc").file("etc/a", b"one").tar(),
    TarWriter().whiteout("etc/a").file("etc/b", b"two" * 1000).tar(),
]
Opener = Callable[..., Image]


def test_t24_links_in_an_archive_stay_inside_it(tmp_path: Path, opened: Opener) -> None:
    for target in ("/etc/hostname", "../../../../etc/hostname"):
        files = docker_files([ImageSpec(LAYERS)])
        name = next(n for n in files if n.endswith("layer.tar"))
        files[name] = Link(target)
        with pytest.raises(MalformedImage, match=r"layer .*not in the archive"):
            opened(write_archive(tmp_path / "i.tar", files))
    files[name] = Link("layer.tar")
    with pytest.raises(MalformedImage, match="loop of links"):
        opened(write_archive(tmp_path / "i.tar", files))


def test_t24_names_of_a_directory_stay_beneath_it(tmp_path: Path) -> None:
    (tmp_path / "beside").write_bytes(b"x")
    (tmp_path / "d").mkdir()
    medium = Directory(tmp_path / "d")
    for name in (str(tmp_path / "beside"), "../beside", "a/../../beside", "a\0b"):
        assert medium.find(name) is None
    medium.close()


def test_t24_an_index_that_holds_itself(tmp_path: Path, opened: Opener) -> None:
    files = oci_files([ImageSpec(LAYERS)], nested="x")
    outer = json.loads(files["index.json"])  # type: ignore[arg-type]
    name = "blobs/sha256/" + outer["manifests"][0]["digest"][7:]
    inner = {"schemaVersion": 2, "manifests": outer["manifests"] * 1000}
    files[name] = json.dumps(inner).encode()
    with pytest.raises(MalformedImage, match="nested"):
        opened(write_directory(tmp_path / "d", files), verify=False)


def test_t24_a_directory_of_odd_files(tmp_path: Path, opened: Opener) -> None:
    path = oci_layout(tmp_path / "d", LAYERS)
    (path / "index.json").unlink()
    os.mkfifo(path / "index.json")
    with pytest.raises(ImageNotFound, match=r"no index\.json"):
        opened(path)


def bad_files(path: Path) -> dict[str, tuple[type[ImgmountError], str]]:
    """Makes the files: {reference: (error, a text of its message)}."""
    (path / "empty").write_bytes(b"")
    (path / "text").write_bytes(b"hello\n" * 1000)
    (path / "end").write_bytes(bytes(1024))
    (path / "dir").mkdir()
    os.mkfifo(path / "fifo")
    docker_archive(path / "i.tar", LAYERS)
    (path / "cut.tar").write_bytes((path / "i.tar").read_bytes()[:3000])
    (path / "cut.gz").write_bytes(docker_archive(path / "g", LAYERS, wrap="gzip").read_bytes()[:-9])
    write_archive(path / "none.tar", {"manifest.json": b"[]"})
    write_archive(path / "lost.tar", {"manifest.json": b'[{"Config": "c.json", "Layers": []}]'})
    return {
        "gone.tar": (ImageNotFound, "no such file"),
        "gone.tar:x:1": (ImageNotFound, "gone.tar: no such file"),
        "text/x": (ImageNotFound, "no such file"),
        "empty": (MalformedImage, "empty file"),
        "text": (MalformedImage, "at byte 0"),
        "end": (ImageNotFound, "without members"),
        "dir": (ImageNotFound, "directory without an image"),
        "tar:dir": (ImageNotFound, "a directory"),
        "docker-archive:dir": (ImageNotFound, "a directory"),
        "oci:i.tar": (ImageNotFound, "oci-archive:"),
        "oci-archive:i.tar": (ImageNotFound, "no OCI layout"),
        "docker-archive:text": (MalformedImage, "at byte 0"),
        "fifo": (ImageNotFound, "not a regular file"),
        "cut.tar": (MalformedImage, "cut.tar: "),
        "cut.gz": (MalformedImage, "cut.gz: gzip stream is cut off near byte"),
        "none.tar": (ImageNotFound, "no image in it"),
        "lost.tar": (MalformedImage, "c.json: listed, but not in the archive"),
    }


def test_t24_bad_files_give_clear_errors(
    tmp_path: Path, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for text, (kind, words) in bad_files(tmp_path).items():
        with pytest.raises(ImgmountError) as caught:
            opened(text)
        assert type(caught.value) is kind, text
        assert words in str(caught.value) and "\n" not in str(caught.value)
    archives = tmp_path / "kept/cache/archives"
    assert not [p for p in archives.iterdir() if p.name.startswith(".")]


def test_t24_documents_cut_anywhere(tmp_path: Path, opened: Opener) -> None:
    data = docker_archive(tmp_path / "i.tar", [LAYERS[0]]).read_bytes()
    path = tmp_path / "cut.tar"
    for cut in range(1, data.rindex(b"}]"), 511):  # the end of manifest.json, its last member
        path.write_bytes(data[:cut])
        with pytest.raises(ImgmountError):
            with opened(path) as image:
                options = ImageOptions(AMD64)
                directories = Directories(tmp_path / "c", tmp_path / "s", tmp_path / "r")
                for layer in open_layers(image, options, directories, SilentProgress()):
                    layer.close()
                # a cut between two members leaves a complete tar without the image's files
                assert image.repo_tags == ()
                raise ImageNotFound("a root file system")


@pytest.mark.parametrize("make", [docker_archive, oci_archive], ids=["docker", "oci"])
@pytest.mark.parametrize("verify", [True, False])
def test_t24_flipped_bytes(
    tmp_path: Path, opened: Opener, make: Callable[..., Path], verify: bool
) -> None:
    data = make(tmp_path / "i.tar", LAYERS, compress="gzip" if make is oci_archive else "none")
    good, path = data.read_bytes(), tmp_path / "bad.tar"
    chance = random.Random(24)
    directories = Directories(tmp_path / "c", tmp_path / "s", tmp_path / "r")
    options = ImageOptions(AMD64, verify)
    outcomes = set()
    for _ in range(100):
        bad = bytearray(good)
        for _ in range(chance.randint(1, 4)):
            bad[chance.randrange(len(bad))] = chance.randrange(256)
        path.write_bytes(bad)
        try:
            with opened(path, verify=verify) as image:
                for layer in open_layers(image, options, directories, SilentProgress()):
                    layer.close()
            outcomes.add("fine")
        except ImgmountError as error:
            assert "\n" not in str(error)
            outcomes.add(type(error).__name__)
    assert {"fine", "MalformedImage"} <= outcomes
    assert not verify or "VerificationFailed" in outcomes


def test_t24_names_cannot_write_to_the_terminal(tmp_path: Path, opened: Opener) -> None:
    images = [ImageSpec(LAYERS[:1], ("a\n\x1b[2J:1",)), ImageSpec(LAYERS[1:], ("b" * 10**5,))]
    for make in (docker_archive, oci_archive):
        with pytest.raises(ImageNotFound) as caught:
            opened(make(tmp_path / "i.tar", images=images))
        assert str(caught.value).isprintable() and len(str(caught.value)) < 1000


@pytest.mark.parametrize("name", ["index.json", "config", "layer"])
def test_a_fifo_in_a_layout_is_not_opened(tmp_path: Path, opened: Opener, name: str) -> None:
    """A symlink of a user's layout may lead to a fifo or a device of root's: to open it would let
    go who waits at it, or start it."""
    layout = oci_layout(tmp_path / "layout", [LAYERS[0]])
    blobs = {path.stat().st_size: path for path in (layout / "blobs" / "sha256").iterdir()}
    victim = {"index.json": layout / "index.json", "config": blobs[sorted(blobs)[0]],
              "layer": blobs[max(blobs)]}[name]  # fmt: skip
    victim.unlink()
    os.mkfifo(tmp_path / "private")
    victim.symlink_to(tmp_path / "private")
    # Its open(2) ends when somebody opens the fifo to read, even for a moment.
    writer = subprocess.Popen(["sh", "-c", 'exec > "$0"', tmp_path / "private"])
    try:
        until = time.monotonic() + 20
        while Path(f"/proc/{writer.pid}/wchan").read_text() not in (
            "wait_for_partner",
            "fifo_open",
        ):
            assert time.monotonic() < until
            time.sleep(0.01)
        with pytest.raises(ImgmountError):
            image = opened(f"oci:{layout}")
            _ = [blob.fd for blob in image.layers]
        with pytest.raises(subprocess.TimeoutExpired):
            writer.wait(0.3)
    finally:
        writer.kill()
        writer.wait()
