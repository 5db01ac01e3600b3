"""Law: images that skopeo, umoci and buildah make and convert open, verify and agree.

The tools are Debian's; a test whose tool is missing is skipped, which `-ra` shows.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fusemount.errors import ImageNotFound
from fusemount.image import docker_inspect
from fusemount.layer import SilentProgress, open_layers
from fusemount.reference import parse_reference
from fusemount.settings import Directories, ImageOptions
from fusemount.sources import open_image, path_exists

BUSYBOX = shutil.which("busybox") or ""


def run(*command: object, **environment: str) -> str:
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
        check=False,
    )
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout.strip()


def skopeo(source: object, target: object, *more: str) -> None:
    run("skopeo", "--insecure-policy", "copy", "-q", *more, source, target)


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A layout that umoci made: two layers, tagged v1, with busybox in the first."""
    path = tmp_path_factory.mktemp("umoci") / "layout"
    (path.parent / "etc").mkdir()
    (path.parent / "etc/motd").write_text("hello\n")
    run("umoci", "init", "--layout", path)
    run("umoci", "new", "--image", f"{path}:v1")
    run("umoci", "insert", "--image", f"{path}:v1", BUSYBOX, "/bin/busybox")
    run("umoci", "insert", "--image", f"{path}:v1", path.parent / "etc", "/etc")
    run("umoci", "config", "--image", f"{path}:v1", "--config.cmd", "/bin/busybox")
    return path


Found = tuple[str, tuple[str, ...], list[dict[bytes, int]]]


def look(reference: object, cache: Path) -> Found:
    """(image ID, diff_ids, {path: size} of each layer), everything verified."""
    directories = Directories(cache, cache, cache)
    parsed = parse_reference(str(reference), path_exists)
    with open_image(parsed, ImageOptions(), directories, SilentProgress()) as image:
        inspected = docker_inspect(image)
        layers = open_layers(image, ImageOptions(), directories, SilentProgress())
    contents = []
    for layer in layers:
        with layer:
            members = (layer.index.member(i) for i in range(len(layer.index)))
            contents.append({member.path: member.size for member in members})
    assert inspected["Id"] == image.config_digest
    diff_ids = tuple(str(layer.diff_id) for layer in layers)
    assert list(diff_ids) == inspected["RootFS"]["Layers"]
    return str(image.image_id), diff_ids, contents


@pytest.mark.parametrize(
    ("transport", "codec"),
    [
        ("oci", "gzip"),
        ("oci", "zstd"),
        ("oci-archive", "gzip"),
        ("oci-archive", "zstd"),
        ("docker-archive", "gzip"),
    ],
)
def test_t22_what_skopeo_converts_is_the_same_image(
    layout: Path, tmp_path: Path, transport: str, codec: str
) -> None:
    _, diff_ids, contents = look(f"oci:{layout}:v1", tmp_path / "cache")
    assert len(diff_ids) == 2
    assert contents[0][b"bin/busybox"] == os.stat(BUSYBOX).st_size
    assert contents[1][b"etc/motd"] == 6
    target = tmp_path / "copy"
    format_ = [] if transport == "docker-archive" else ["--dest-compress-format", codec]
    skopeo(f"oci:{layout}:v1", f"{transport}:{target}:x/y:1", *format_)
    for reference in (target, f"{target}:x/y:1", f"{transport}:{target}:x/y:1"):
        copied = look(reference, tmp_path / "cache")
        assert copied[1:] == (diff_ids, contents)
        if transport != "docker-archive":
            assert copied[0] == look(layout, tmp_path / "cache")[0]
    with pytest.raises(ImageNotFound, match=r"it holds .*x/y:1"):
        look(f"{target}:other", tmp_path / "cache")


@pytest.mark.parametrize("tool", ["gzip", "zstd", "xz", "bzip2"])
def test_t21_a_wrapped_docker_archive(layout: Path, tmp_path: Path, tool: str) -> None:
    plain = tmp_path / "i.tar"
    skopeo(f"oci:{layout}:v1", f"docker-archive:{plain}:x:1")
    expected = look(plain, tmp_path / "cache")
    with open(tmp_path / "wrapped", "wb") as out:
        subprocess.run([tool, "-c", plain], stdout=out, check=True, timeout=120)
    assert look(f"{tmp_path}/wrapped:x:1", tmp_path / "cache") == expected


@pytest.fixture
def buildah(tmp_path: Path) -> Iterator[list[str]]:
    """A buildah command line with a storage for this test."""
    store = tmp_path / "store"
    command = ["buildah", "--root", str(store / "root"), "--runroot", str(store / "run")]
    yield [*command, "--storage-driver", "vfs"]
    subprocess.run([*command, "--storage-driver", "vfs", "rm", "--all"], check=False)


def test_t22_what_buildah_commits(tmp_path: Path, buildah: list[str]) -> None:
    box = run(*buildah, "from", "scratch")
    run(*buildah, "copy", box, BUSYBOX, "/bin/busybox")
    run(*buildah, "config", "--cmd", "/bin/busybox", "--env", "A=1", box)
    policy = ["--signature-policy", str(tmp_path / "policy.json")]
    (tmp_path / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    found = []
    for target in ("docker-archive:{}/d.tar:b:1", "oci-archive:{}/o.tar:b:1", "oci:{}/o:b:1"):
        reference = target.format(tmp_path)
        run(*buildah, "commit", "-q", *policy, box, reference)
        found.append(look(reference, tmp_path / "cache"))
    # three commits differ only in their dates
    assert found[0][2] == found[1][2] == found[2][2]
    assert found[0][2][0][b"bin/busybox"] == os.stat(BUSYBOX).st_size


def test_t22_a_docker_archive_of_several_images(layout: Path, tmp_path: Path) -> None:
    layout = Path(shutil.copytree(layout, tmp_path / "layout"))
    run("umoci", "tag", "--image", f"{layout}:v1", "v2")
    run("umoci", "config", "--image", f"{layout}:v2", "--config.env", "A=1")
    with pytest.raises(ImageNotFound, match=r"which image.*v1, v2"):
        look(layout, tmp_path / "cache")
    first, second = (look(f"{layout}:{tag}", tmp_path / "cache") for tag in ("v1", "v2"))
    assert first[0] != second[0] and first[1:] == second[1:]


def test_t22_a_root_file_system_through_a_pipe(tmp_path: Path) -> None:
    (tmp_path / "root/bin").mkdir(parents=True)
    shutil.copy(BUSYBOX, tmp_path / "root/bin/busybox")
    script = f"tar -C {tmp_path}/root -c . | cat | gzip > {tmp_path}/r.tgz"
    subprocess.run(["sh", "-c", script], check=True, timeout=60)
    directories = Directories(tmp_path / "c", tmp_path / "s", tmp_path / "r")
    reference = parse_reference(f"{tmp_path}/r.tgz", path_exists)
    with open_image(reference, ImageOptions(), directories, SilentProgress()) as image:
        (layer,) = open_layers(image, ImageOptions(), directories, SilentProgress())
    with layer:
        assert len(layer.index) == 3 and layer.diff_id is not None
