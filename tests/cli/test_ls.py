"""`ls`: rows, filters, formats; images that are damaged or of several platforms; its speed."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from imagewriter import ImageSpec, oci_layout, sha256
from oracle import run
from storecommand import LAYERS, ONE, OTHER, TWO, StoreCommand, store_command, two_images

from fusemount.store import Store

ONE_ID, TWO_ID = sha256(ONE.config_bytes), sha256(TWO.config_bytes)


@pytest.fixture
def imgmount(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> StoreCommand:
    return store_command(tmp_path, monkeypatch, capsys)


@pytest.fixture
def filled(imgmount: StoreCommand, tmp_path: Path) -> StoreCommand:
    imgmount("load", "-i", two_images(tmp_path / "two.tar"))
    return imgmount


def names(out: str) -> list[str]:
    return [":".join(line.split()[:2]) for line in out.splitlines()[1:]]


def test_a_store_that_is_not_there_is_empty(imgmount: StoreCommand) -> None:
    assert imgmount("ls").split() == ["REPOSITORY", "TAG", "IMAGE", "ID", "CREATED", "SIZE"]
    assert imgmount("ls", "-q") == ""
    assert json.loads(imgmount("ls", "--json")) == []
    assert not imgmount.root.exists()


def test_rows_are_dockers_newest_first(filled: StoreCommand) -> None:
    lines = filled("ls").splitlines()
    assert lines[0] == "REPOSITORY   TAG       IMAGE ID       CREATED       SIZE"
    assert [line.split()[:3] for line in lines[1:]] == [
        ["other/two", "x", TWO_ID[:12]],
        ["one", "1", ONE_ID[:12]],
        ["one", "latest", ONE_ID[:12]],
    ]
    assert filled("images", "-q").split() == [TWO_ID[:12], ONE_ID[:12], ONE_ID[:12]]
    assert f"sha256:{TWO_ID}" in filled("list", "--no-trunc")
    assert filled("ls", "--digests").splitlines()[0].split()[2] == "DIGEST"


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["one"], ["one:1", "one:latest"]),
        (["one:1"], ["one:1"]),
        (["two"], []),
        (["-f", "reference=*/two"], ["other/two:x"]),
        (["-f", "reference=*:1"], ["one:1"]),
        (["-f", "reference=o?e:l*", "-f", "reference=*/*:[xy]"], ["other/two:x", "one:latest"]),
        (["-f", "label=k"], ["other/two:x"]),
        (["-f", "label=k=v", "-f", "label=com.example.x=y z"], ["other/two:x"]),
        (["-f", "label=k=w"], []),
        (["-f", "dangling=true"], []),
        (["-f", "dangling=false"], ["other/two:x", "one:1", "one:latest"]),
        (["-f", "before=other/two:x"], ["one:1", "one:latest"]),
        (["-f", "since=one:1"], ["other/two:x"]),
        (["-f", f"since={ONE_ID[:8]}"], ["other/two:x"]),
        (["-f", "until=2024-06-01"], ["one:1", "one:latest"]),
    ],
)
def test_filters_are_dockers(words: list[str], found: list[str], filled: StoreCommand) -> None:
    assert names(filled("ls", *words)) == found


@pytest.mark.parametrize(
    ("words", "code", "named"),
    [
        (["-f", "size=3"], 2, "no filter 'size'"),
        (["-f", "label"], 2, "KEY=VALUE"),
        (["-f", "dangling=maybe"], 2, "true or false"),
        (["-f", "reference=[a"], 2, "no ] closes"),
        (["-f", "until=tomorrow"], 2, "until=tomorrow"),
        (["-f", "before=nope"], 3, "nope"),
        (["--format", "{{.Name}}"], 2, ".Name"),
        (["one", "two"], 2, "two"),
    ],
)
def test_errors_name_what_is_wrong(
    words: list[str], code: int, named: str, filled: StoreCommand
) -> None:
    assert filled("ls", *words, code=code) == ""
    assert named in filled.err
    assert filled.err.count("\n") == 1


def test_formats(filled: StoreCommand) -> None:
    assert filled("ls", "--format", "{{.Repository}}:{{.Tag}}").split() == [
        "other/two:x", "one:1", "one:latest",
    ]  # fmt: skip
    table = filled("ls", "--format", "table {{.ID}}\\t{{.CreatedAt}}", "one:1").splitlines()
    assert table[0] == "IMAGE ID       CREATED AT"
    assert table[1].startswith(f"{ONE_ID[:12]}   2024-05-0")
    row = json.loads(filled("ls", "--format", "{{json .}}", "one:1"))
    assert (row["Repository"], row["Tag"], row["Digest"]) == ("one", "1", "<none>")
    (two, one) = json.loads(filled("ls", "--json"))
    assert (one["Id"], two["Id"]) == (f"sha256:{ONE_ID}", f"sha256:{TWO_ID}")
    assert one["RepoTags"] == ["one:1", "one:latest"]
    assert one["Size"] == sum(map(len, LAYERS))
    assert two["Labels"] == {"k": "v", "com.example.x": "y z"}
    assert two["Platforms"] == ["linux/amd64"]


def test_an_image_without_a_tag_is_dangling(filled: StoreCommand) -> None:
    filled("tag", "one:1", "other/two:x")
    assert names(filled("ls", "-f", "dangling=true")) == ["<none>:<none>"]
    assert filled("ls", "-q", "-f", "dangling=true").split() == [TWO_ID[:12]]
    assert "<none>:<none>" in names(filled("ls", "-a"))


def damage(root: Path, digest: str) -> None:
    path = root / "blobs" / "sha256" / digest
    path.write_bytes(b"{" + path.read_bytes()[1:-1])


def test_a_damaged_image_does_not_break_the_list(filled: StoreCommand) -> None:
    damage(filled.root, TWO_ID)
    (filled.root / "cache" / "summaries.json").unlink()
    lines = filled("ls").splitlines()
    assert names("\n".join(lines)) == ["one:1", "one:latest", "other/two:x"]
    assert lines[-1].split()[-2:] == ["N/A", "damaged"]
    assert filled.err.startswith("imgmount: warning: ")
    assert TWO_ID in filled.err and filled.err.count("\n") == 1
    (found,) = (x for x in json.loads(filled("ls", "--json")) if x["Kind"] == "damaged")
    assert found["RepoTags"] == ["other/two:x"] and TWO_ID in found["Error"]


def test_what_a_damaged_image_needs_stays(filled: StoreCommand) -> None:
    damage(filled.root, TWO_ID)
    (filled.root / "cache" / "summaries.json").unlink()
    filled("rm", "one:1", "one")
    filled("prune", "-f")
    left = {path.name for path in (filled.root / "blobs" / "sha256").iterdir()}
    assert {sha256(layer) for layer in OTHER} < left
    filled("rm", "other/two:x")
    filled("prune", "-f")
    assert not list((filled.root / "blobs" / "sha256").iterdir())


def test_names_that_other_programs_give(filled: StoreCommand) -> None:
    run("umoci", "tag", "--image", f"{filled.root}:one:1", "umo")
    run("skopeo", "copy", "-q", f"oci:{filled.root}:other/two:x", f"oci:{filled.root}:sk:2")
    assert set(names(filled("ls"))) == {
        "other/two:x", "sk:2", "one:1", "one:latest", "umo:latest",
    }  # fmt: skip
    assert filled("verify") == "2 images, 7 blobs: as they should be\n"
    filled("rm", "umo", "one:1", "sk:2")
    assert names(filled("ls")) == ["other/two:x", "one:latest"]
    assert run("umoci", "ls", "--layout", filled.root).stdout.split() == [
        b"one:latest", b"other/two:x",
    ]  # fmt: skip


def several_platforms(path: Path) -> Path:
    arm = ImageSpec(OTHER, config={"architecture": "arm64", "created": "2024-07-01T00:00:00Z"})
    return oci_layout(path, images=[ImageSpec(LAYERS), arm], nested="multi:1")


def test_an_index_of_several_platforms_is_one_row(imgmount: StoreCommand, tmp_path: Path) -> None:
    layout = several_platforms(tmp_path / "layout")
    imgmount("load", layout)
    (index,) = json.loads((layout / "index.json").read_bytes())["manifests"]
    assert imgmount("ls", "--format", "{{.Repository}}:{{.Tag}} {{.ID}} {{.Platform}}") == (
        f"multi:1 {index['digest'][7:19]} linux/amd64, linux/arm64\n"
    )
    (found,) = json.loads(imgmount("ls", "--json"))
    assert found["Size"] == sum(map(len, {*LAYERS, *OTHER}))
    assert found["Created"] == "2024-07-01T00:00:00Z"
    assert imgmount("inspect", "-f", "{{.Architecture}}", "--platform", "arm64", "multi:1") == (
        "arm64\n"
    )


def test_an_index_of_one_platform_has_that_images_id(
    imgmount: StoreCommand, tmp_path: Path
) -> None:
    layout = oci_layout(tmp_path / "layout", images=[ONE], nested="single:1")
    imgmount("load", layout)
    assert imgmount("ls", "-q").strip() == ONE_ID[:12]
    assert imgmount("inspect", "-f", "{{.Id}}", ONE_ID[:12]).strip() == f"sha256:{ONE_ID}"


def test_a_platform_that_comes_later_is_seen(imgmount: StoreCommand, tmp_path: Path) -> None:
    layout = several_platforms(tmp_path / "layout")
    inner = json.loads((layout / "index.json").read_bytes())["manifests"][0]["digest"][7:]
    children = json.loads((layout / "blobs/sha256" / inner).read_bytes())["manifests"]
    arm = layout / "blobs/sha256" / children[1]["digest"][7:]
    data = arm.read_bytes()
    arm.unlink()
    imgmount("load", layout)
    assert imgmount("ls", "--format", "{{.Platform}}") == "linux/amd64\n"
    arm.write_bytes(data)
    imgmount("load", layout)
    assert imgmount("ls", "--format", "{{.Platform}}") == "linux/amd64, linux/arm64\n"
    imgmount("rm", "multi:1")
    assert not list((imgmount.root / "blobs/sha256").iterdir())


def test_a_thousand_images_are_listed_quickly(tmp_path: Path) -> None:
    root = tmp_path / "root"
    store = Store(root, create=True)
    specs = [
        ImageSpec(LAYERS, tags=(f"repo/{i}:x",), config={"author": str(i)}) for i in range(1000)
    ]
    oci_layout(root, images=specs)
    store.tag("repo/1:x", store.name("one"))
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    environment |= {"IMGMOUNT_ROOT_DIR": str(root), "PYTHONPYCACHEPREFIX": str(tmp_path / "pyc")}
    times = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [sys.executable, "-m", "fusemount", "ls"], env=environment, capture_output=True
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert len(done.stdout.splitlines()) == 1002, done.stderr
    # Seconds of CPU time; on a quiet machine 0.13, which is also the time by the wall clock.
    assert min(times) < 0.25
