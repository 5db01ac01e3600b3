"""A real dockerd and a store with the same images print the same for the same words.

Sizes differ: docker counts the bytes of files, a store the bytes of tars.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from dockerd import Dockerd, dockerd
from storecommand import StoreCommand, store_command, two_images

SAME = [
    ["images"],
    ["images", "--no-trunc"],
    ["images", "--digests"],
    ["images", "-q"],
    ["images", "-a"],
    ["images", "one"],
    ["images", "one:1"],
    ["images", "nope"],
    ["images", "-f", "reference=*/*"],
    ["images", "-f", "reference=o*:1", "-f", "reference=third/?:[0-9]"],
    ["images", "-f", "before=other/two:x"],
    ["images", "-f", "since=one:1"],
    ["images", "-f", "label=k"],
    ["images", "-f", "label=k=no"],
    ["images", "-f", "dangling=true"],
    ["images", "--format", "table {{.ID}}\\t{{.Repository}}:{{.Tag}}\\t{{.CreatedAt}}"],
    ["images", "--format", "{{.ID}} {{upper .Tag}} {{.Digest}} {{.CreatedSince}}\\n"],
    ["images", "--format", "{{json .Tag}}"],
    ["images", "-q", "--format", "{{.Tag}}"],
    ["history", "one:1"],
    ["history", "--no-trunc", "one:1"],
    ["history", "-q", "one:1"],
    ["history", "--format", "{{.ID}} {{.CreatedBy}} {{.CreatedAt}} {{.CreatedSince}}", "one:1"],
    ["history", "--format", "table {{.CreatedBy}}\\t{{.Comment}}", "one:1"],
]
TEMPLATES = [
    "{{.Id}}",
    "{{.Config.Cmd}}{{json .Config.Cmd}}{{join .Config.Cmd \",\"}}",
    "{{.Config.Entrypoint}}{{json .Config.Entrypoint}}{{len .Config.Entrypoint}}",
    "{{.Config.Labels}}{{json .Config.Labels}}{{.Config.Labels.k}}{{.Config.Labels.no}}",
    '{{index .Config.Labels "com.example.x"}}{{index .Config.Labels "no"}}',
    "{{.RootFS.Layers}}{{len .RootFS.Layers}}{{index .RootFS.Layers 0}}{{json .RootFS}}",
    "{{.RepoTags}}{{index .RepoTags 0}}{{json .RepoTags}}{{.RepoDigests}}{{json .RepoDigests}}",
    "{{.Created}} {{.Os}}/{{.Architecture}} {{.Parent}}|{{.Comment}}|{{.Author}}",
    "{{.Config.User}}|{{.Config.WorkingDir}}|{{.Config.OnBuild}}",
    "{{.Config.Volumes}}{{.Config.ExposedPorts}}{{json .Config.Healthcheck}}{{.Config.Env}}",
    "{{upper .Os}} {{title .Os}} {{truncate .Id 10}} {{split .Id \":\"}} {{lower \"A\"}}",
    "a\\nb {{.Os | json}} {{.RootFS.Type -}} c {{- /* nothing */ -}} d {{(index .RepoTags 0)}}",
    "{{`raw`}}{{\"a\\tb\"}}{{3}}{{true}}",
]  # fmt: skip


def masked(text: str) -> str:
    """The sorted lines without sizes (all of one width here) and without blanks at their ends.

    They are sorted because docker prints the names of one image in any order.  test_ls.py tests the
    order of images.
    """
    lines = (re.sub(r"\b[\d.]+[kMG]?B", "SIZE", line).rstrip() for line in text.splitlines())
    return "\n".join(sorted(filter(None, lines)))


def differing(imgmount: StoreCommand, docker: Dockerd) -> dict[str, tuple[str, str]]:
    found = {}
    for words in SAME:
        found[" ".join(words)] = (masked(imgmount(*words)), masked(docker(*words)))
    for template in TEMPLATES:
        words = ["inspect", "-f", template, "other/two:x"]
        found[template] = (imgmount(*words).strip(), docker("image", *words))
    return {words: both for words, both in found.items() if both[0] != both[1]}


def rows(text: str) -> Sequence[dict[str, str]]:
    return [json.loads(line) for line in text.splitlines()]


def check_removal(imgmount: StoreCommand, docker: Dockerd) -> None:
    """For a deleted image, a store prints the digest of its manifest too."""
    assert imgmount("rm", "one:1").strip() == docker("rmi", "one:1")
    theirs = docker("rmi", "one", "third/x:9").splitlines()
    ours = imgmount("rmi", "one", "third/x:9").splitlines()
    assert [line for line in ours if line in theirs] == theirs
    assert len(ours) == len(theirs) + 1
    theirs = docker("image", "prune", "-af").splitlines()
    ours = imgmount("prune", "-af").splitlines()
    assert sorted(set(theirs[:-1]) - set(ours)) == []
    assert len(ours) == len(theirs) + 1


def test_the_same_words_give_the_same_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    imgmount = store_command(tmp_path, monkeypatch, capsys)
    archive = two_images(tmp_path / "two.tar")
    base = tmp_path / "d"
    base.mkdir()
    try:
        with dockerd(base) as docker:
            assert imgmount("load", "-i", archive).strip() == docker("load", "-q", "-i", archive)
            docker("tag", "one:1", "third/x:9")
            imgmount("tag", "one:1", "third/x:9")
            found = differing(imgmount, docker)
            ours, theirs = (rows(x("images", "--format", "{{json .}}")) for x in (imgmount, docker))
            assert [row.keys() - {"Platform"} for row in ours] == [row.keys() for row in theirs]
            check_removal(imgmount, docker)
            imgmount("load", archive)
            for form in ("docker-archive", "oci-archive"):
                imgmount("save", "one", "other/two:x", "--format", form, "-o", tmp_path / form)
                docker("load", "-q", "-i", tmp_path / form)
                words = ("images", "--no-trunc", "--format", "{{.ID}} {{.Repository}}:{{.Tag}}")
                assert sorted(docker(*words).split("\n")) == sorted(
                    imgmount(*words).split("\n")[:-1]
                )
                docker("image", "prune", "-af")
    finally:
        shutil.rmtree(base)
    assert not found, "\n".join(f"{k}:\nours\n{a}\ndocker's\n{b}" for k, (a, b) in found.items())
