"""Runs `imgmount copy` from each kind of source to each kind of target: the tree stays the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from imagewriter import ImageSpec, oci_archive, oci_files
from manifests import platforms
from mounted import Command
from oracle import run
from picture import Pictured
from realregistry import RealRegistry
from storing import clean, load
from transferring import copied, dumped, inspected, raw, upload

from fusemount.cli.main import main
from fusemount.digest import Digest
from fusemount.store import Store

SOURCES = ("registry", "store", "another store", "oci", "oci-archive", "docker-archive")
TARGETS = ("registry", "store", "another store", "oci", "oci-archive", "docker-archive")
NAME = "pictured:1"


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Command:
    return Command(tmp_path_factory.mktemp("copying"))


@pytest.fixture(scope="module")
def sources(command: Command, registry: RealRegistry, pictured: Pictured) -> dict[str, str]:
    """A reference to each kind of source, all with the same image."""
    base = command.base
    spec = ImageSpec(pictured.layers, tags=(NAME,), compress="gzip")
    upload(registry.domain, "copied/from", "1", oci_files([spec]))
    archive = oci_archive(base / "from.tar", images=[spec])
    stores = [Store(base / name, create=True) for name in ("root", "another")]
    for store in stores:
        load(store, archive)
    return {
        "registry": f"docker://{registry.domain}/copied/from:1",
        "store": NAME,
        "another store": f"store:[{stores[1].root}]{NAME}",
        "oci": f"oci:{pictured.layout}:t",
        "oci-archive": f"oci-archive:{archive}:{NAME}",
        "docker-archive": f"docker-archive:{pictured.archive}:{NAME}",
    }


@pytest.mark.parametrize("source", SOURCES)
def test_copies(
    command: Command, registry: RealRegistry, pictured: Pictured, sources: dict[str, str],
    source: str, tmp_path: Path,
) -> None:  # fmt: skip
    config = pictured.layout / "blobs/sha256"
    manifest = json.loads((pictured.layout / "index.json").read_bytes())["manifests"][0]["digest"]
    ident = json.loads((config / manifest[7:]).read_bytes())["config"]["digest"]
    kind = source.replace(" ", "")
    targets = {
        "registry": f"docker://{registry.domain}/copied/{kind}:2",
        "store": f"copied/{kind}:2",
        "another store": f"store:[{tmp_path}/new]copied/{kind}:2",
        "oci": f"oci:{tmp_path}/layout:copied:2",
        "oci-archive": f"oci-archive:{tmp_path}/oci.tar:copied:2",
        "docker-archive": f"docker-archive:{tmp_path}/docker.tar:copied:2",
    }
    for name, target in targets.items():
        assert copied(sources[source], target, command.base) == ident, name
        seen = f"docker-archive:{tmp_path}/seen.tar"
        if name == "registry":
            run("skopeo", "copy", "-q", "--src-tls-verify=false", target, f"{seen}:x:1")
            assert inspected(target.removeprefix("docker://"))["Digest"]
        elif name in ("store", "another store"):
            seen = target
        else:
            seen = target
            run("skopeo", "inspect", target)
        assert dumped(seen, tmp_path / "kept", command.base / "root") == pictured.lines, name
        (tmp_path / "seen.tar").unlink(missing_ok=True)
    for root in (command.base / "root", tmp_path / "new"):
        clean(Store(root))
    assert not list((command.base / "cache").glob("copy-*"))


def test_from_podman(
    command: Command, pictured: Pictured, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """docker: and containers-storage: are read, and never written."""
    base = tmp_path_factory.mktemp("c")  # podman's paths must be short
    storage = ("--root", base / "storage", "--runroot", base / "run", "--storage-driver", "vfs")
    run("podman", *storage, "load", "-q", "-i", pictured.archive)
    try:
        source = f"containers-storage:[vfs@{base}/storage]localhost/pictured:1"
        command("copy", source, f"oci:{tmp_path}/layout:x:1")
        copied = dumped(f"oci:{tmp_path}/layout:x:1", tmp_path / "kept")
        assert copied == pictured.lines
        done = command("copy", NAME, source, check=False)
        assert done.returncode == 2 and "never written" in done.stderr
    finally:
        run("podman", *storage, "rmi", "-a", "-f", check=False)


def test_all_platforms_go_together(
    command: Command, registry: RealRegistry, tmp_path: Path
) -> None:
    digest = upload(registry.domain, "copied/multi", "1", platforms())
    source, target = (f"docker://{registry.domain}/copied/{n}:1" for n in ("multi", "multi2"))
    command("copy", "--all-platforms", source, f"oci:{tmp_path}/layout:m:1")
    command("copy", f"oci:{tmp_path}/layout:m:1", target)
    assert Digest.of(raw(target.removeprefix("docker://"))) == digest
    command("copy", "--platform", "linux/arm64", source, f"docker-archive:{tmp_path}/arm.tar:a:1")
    config = json.loads(run("skopeo", "inspect", "--config",
                            f"docker-archive:{tmp_path}/arm.tar").stdout)  # fmt: skip
    assert config["architecture"] == "arm64"
    done = command("copy", "--platform", "linux/arm64", f"oci:{tmp_path}/layout:m:1", "x:1",
                   check=False)  # fmt: skip
    assert done.returncode == 2 and "--platform" in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "output"),
    [
        (("nosuch:1", "oci:x"), 3, "no such image"),
        (("docker://127.0.0.1:1/a:1", "x:1"), 11, "127.0.0.1:1/a"),
        (("pictured:1", "oci:"), 2, "names no file"),
        (("pictured:1", "docker://h/Upper"), 2, "lower case"),
        (("pictured:1", f"x@sha256:{'0' * 64}"), 2, "gets a tag"),
        (("pictured:1", f"docker://h/x@sha256:{'0' * 64}"), 2, "gets a tag"),
        (("pictured:1", "docker:x"), 2, "never written"),
        (("oci:/nonexistent", "x:1"), 3, "/nonexistent"),
    ],
)
def test_what_cannot_be_copied(
    command: Command, sources: dict[str, str], words: tuple[str, str], code: int, output: str
) -> None:
    done = command("copy", *words, check=False)
    assert done.returncode == code, done.stderr
    (line,) = done.stderr.splitlines()
    assert output in line and line.startswith("imgmount: ")


def test_one_password_is_for_one_registry(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["copy", "--creds", "u:p", "docker://one.test/a", "docker://two.test/a"]
    assert main(words) == 2
    assert "two registries" in capsys.readouterr().err
