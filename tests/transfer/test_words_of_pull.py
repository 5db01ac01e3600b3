"""Checks the output of `imgmount pull` and `push`, names without a registry, and exit codes."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from imagewriter import ImageSpec, oci_files
from manifests import platforms
from mounted import Command, mounted
from realregistry import RealRegistry
from storing import clean, layer, names
from transferring import upload

from fusemount.store import Store


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path / "dirs")


def put(registry: RealRegistry, repository: str, tag: str, *contents: str) -> str:
    spec = ImageSpec([layer(each) for each in contents], tags=("t",), compress="gzip")
    return upload(registry.domain, repository, tag, oci_files([spec]))


def test_a_pull_in_docker_s_words(command: Command, registry: RealRegistry) -> None:
    digest = put(registry, "words/a", "latest", "one", "two")
    name = f"{registry.domain}/words/a"
    output = command("pull", name)
    lines = output.stdout.splitlines()
    assert output.stderr == "" and lines[0] == "latest: Pulling from words/a"
    assert sorted(re.sub(r"^[0-9a-f]{12}", "ID", line) for line in lines[1:3]) == [
        "ID: Pull complete", "ID: Pull complete",
    ]  # fmt: skip
    assert lines[3:] == [
        f"Digest: {digest}",
        f"Status: Downloaded newer image for {name}:latest",
        f"{name}:latest",
    ]
    again = command("pull", name).stdout.splitlines()
    assert [line[14:] for line in again[1:3]] == ["Already exists", "Already exists"]
    assert again[4] == f"Status: Image is up to date for {name}:latest"
    assert command("pull", "-q", name).stdout == f"{name}:latest\n"
    assert command("push", "-q", name, f"{name}:other").stdout == f"{name}:other\n"
    command("push", name, f"{name}:other", "--digestfile", command.base / "digest")
    assert (command.base / "digest").read_text() == digest


def test_a_digest_follows_no_stranger_s_link(command: Command, registry: RealRegistry) -> None:
    put(registry, "words/d", "latest", "one")
    name = f"{registry.domain}/words/d"
    command("pull", "-q", name)
    kept, link = command.base / "kept", command.base / "link"
    kept.write_text("kept")
    link.symlink_to(kept)
    kept.write_text("x" * 100)  # no end of a longer text is left behind the digest
    out = command("push", "-q", name, f"{name}:o", "--digestfile", link).stdout
    assert re.fullmatch("sha256:[0-9a-f]{64}", kept.read_text()) and out == f"{name}:o\n"
    os.chown(link, 65533, 65533, follow_symlinks=False)
    kept.write_text("kept")
    done = command("push", "-q", name, f"{name}:o", "--digestfile", link, check=False)
    assert done.returncode == 1 and "is a symlink of uid 65533: it is not followed" in done.stderr
    assert kept.read_text() == "kept"


def test_all_tags(command: Command, registry: RealRegistry) -> None:
    for tag in ("1", "2"):
        put(registry, "words/tags", tag, "shared", tag)
    name = f"{registry.domain}/words/tags"
    output = command("pull", "-q", "--all-tags", name).stdout
    assert sorted(output.splitlines()) == [f"{name}:1", f"{name}:2"]
    done = command("pull", "-a", f"{name}:1", check=False)
    assert done.returncode == 2 and "--all-tags" in done.stderr
    store = Store(command.base / "root")
    assert names(store) == {f"{name}:1", f"{name}:2"}
    clean(store, images=2)


@dataclass(frozen=True)
class ByDefault(Command):
    """domain: for names without one."""

    domain: str = ""

    @property
    def environment(self) -> dict[str, str]:
        return Command.environment.fget(self) | {"IMGMOUNT_DEFAULT_REGISTRY": self.domain}


def test_the_default_registry(registry: RealRegistry, tmp_path: Path) -> None:
    """An image that was pulled by a short name is mounted, pushed and copied by that name."""
    put(registry, "short", "latest", "content")
    command = ByDefault(tmp_path / "dirs", domain=registry.domain)
    assert command("pull", "-q", "short").stdout == f"{registry.domain}/short:latest\n"
    with mounted(command, Path("short"), tmp_path / "m", "--read-only") as at:
        assert (at / "content").exists()
    command("push", "short", "elsewhere:1")
    command("copy", "-q", "docker://elsewhere:1", "copied:1")
    assert names(Store(command.base / "root")) == {
        f"{registry.domain}/short:latest", f"{registry.domain}/copied:1",
    }  # fmt: skip
    done = ByDefault(tmp_path / "dirs", domain="no/registry")("pull", "short", check=False)
    assert done.returncode == 2 and "no/registry" in done.stderr


def test_platforms(command: Command, registry: RealRegistry) -> None:
    upload(registry.domain, "words/multi", "1", platforms())
    name = f"{registry.domain}/words/multi:1"
    for words, code, output in (
        (("--platform", "linux/arm64"), 0, ""),
        (("--all-platforms",), 0, ""),
        (("--platform", "linux/mips64le"), 6, "only for linux/amd64, linux/arm64, linux/s390x"),
        (("--platform", "a/b/c/d"), 2, "no platform"),
        (("--all-platforms", "--platform", "linux/arm64"), 2, "not allowed with"),
    ):
        done = command("pull", "-q", *words, name, check=False)
        assert done.returncode == code, done.stderr
        assert output in done.stderr
    clean(Store(command.base / "root"))


def test_what_is_not_understood(command: Command, tmp_path: Path) -> None:
    for words, code, output in (
        (("pull", "a/Upper"), 2, "lower case"),
        (("pull", "127.0.0.1:1/a"), 11, "127.0.0.1:1/a:latest"),
        (("push", "nosuch"), 3, "no such image"),
        (("import", str(tmp_path / "none.tar")), 3, "none.tar"),
        (("import", str(tmp_path), "x:1"), 3, "not a regular file"),
        (("import", "-", f"x@sha256:{'0' * 64}"), 2, "digest"),
        (("import", "--change", "RUN x", "-", "x"), 2, "RUN"),
    ):
        done = command(*words, check=False)
        assert done.returncode == code, (words, done.stderr)
        (line,) = done.stderr.splitlines()
        assert output in line
    root = command.base / "root"
    assert not root.exists() or not Store(root).images()
