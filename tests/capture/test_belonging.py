"""The base of an upper (rootfs.base) if the image's name is not enough: layers stacked in another
way, directories, and tars without a known chain ID.  No deleted file comes back."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from imagewriter import docker_archive, oci_archive
from mounted import Command, mounted
from oracle import run
from tarwriter import TarWriter

MARK = "trusted.overlay.imgmount.base"


def on_disk(upper: Path) -> bytes:
    marks = run("getfattr", "-R", "-d", "-m", "-", "--absolute-names", upper).stdout
    return marks + run("find", upper, "-printf", "%p %M %s %n\n").stdout


def names(upper: Path) -> list[str]:
    return sorted(str(p.relative_to(upper)) for p in upper.rglob("*"))


def recorded(upper: Path) -> dict[str, str]:
    recorded = json.loads(os.getxattr(upper, MARK))
    assert isinstance(recorded, dict)
    return recorded


def refused(command: Command, image: str | Path, at: Path, *options: str | Path) -> str:
    """The error line of a mount that must fail. If it does not, it is unmounted."""
    failed = command(image, at, *options, check=False)
    if failed.returncode == 0:
        command("umount", at)
    assert failed.returncode == 8
    return failed.stderr


def test_layers_that_are_stacked_in_another_way_are_others(
    command: Command, tmp_path: Path
) -> None:
    low = TarWriter().dir("usr").dir("usr/bin").symlink("bin", "usr/bin")
    image = oci_archive(tmp_path / "i.tar", [low.tar(), TarWriter().file("bin/tool", b"t").tar()])
    at, upper = tmp_path / "mnt", tmp_path / "upper"
    follow, replace = (("-o", f"symlink-parents={word}") for word in ("follow", "replace"))

    def tool_is_there(*options: str) -> bool:
        with mounted(command, image, at, "--upper", upper, *options):
            return (at / "usr/bin/tool").exists()

    with mounted(command, image, at, "--upper", upper, *follow):
        (at / "usr/bin/tool").unlink()
    before = on_disk(upper)
    assert not tool_is_there()  # without an option: as it is recorded
    for mount in ((), ("--read-only",)):
        output = refused(command, image, at, "--upper", upper, *replace, *mount)
        assert "symlink-parents=follow" in output
    failed = command("diff", "--symlink-parents", "replace", upper, check=False)
    assert failed.returncode == 8 and "--symlink-parents=follow" in failed.stderr
    ran = command("run", "--upper", upper, image, "/usr/bin/tool", check=False)
    assert ran.returncode == 127
    assert on_disk(upper) == before
    assert not tool_is_there(*replace, "--rebase")
    assert not tool_is_there(*follow, "--rebase")
    assert "usr/bin/tool" in names(upper)


@contextmanager
def over(command: Command, low: Path, upper: Path, *options: str) -> Iterator[Path]:
    """A mount of a directory as an image."""
    at = upper.with_name("mnt")
    at.mkdir(exist_ok=True)
    command(f"dir:{low}", at, "--upper", upper, *options)
    try:
        yield at
    finally:
        command("umount", at)


@contextmanager
def overlaid(command: Command, low: Path, upper: Path) -> Iterator[Path]:
    """The same mount with overlayfs' options."""
    at = upper.with_name("mnt")
    at.mkdir(exist_ok=True)
    work = upper.with_name(f".{upper.name}.imgmount-work")
    for directory in (upper, work):
        directory.mkdir(exist_ok=True)
    command("-o", f"lowerdir={low},upperdir={upper},workdir={work}", at)
    try:
        yield at
    finally:
        command("umount", at)


@pytest.mark.parametrize("stacked", [over, overlaid])
def test_directories_that_are_named_alike_may_be_others(
    command: Command, tmp_path: Path, stacked: Callable[..., AbstractContextManager[Path]]
) -> None:
    low, upper = tmp_path / "low", tmp_path / "upper"
    low.mkdir()
    (low / "f").write_text("deleted")
    with stacked(command, low, upper) as at:
        (at / "f").unlink()
    (low / "f").unlink()
    with stacked(command, low, upper) as at:
        assert os.listdir(at) == []
    (low / "f").write_text("deleted")
    with stacked(command, low, upper) as at:
        assert os.listdir(at) == []
    assert names(upper) == ["f"]


def test_directories_elsewhere_are_refused(command: Command, tmp_path: Path) -> None:
    upper, one, two = tmp_path / "upper", tmp_path / "one", tmp_path / "two"
    for directory in (one, two):
        directory.mkdir()
        (directory / "f").write_text("deleted")
    with over(command, one, upper) as at:
        (at / "f").unlink()
        assert command("diff", at).stderr == ""
    before = on_disk(upper)
    output = refused(command, f"dir:{two}", at, "--upper", upper)
    assert f"over dir:{one}, not over dir:{two}" in output
    assert on_disk(upper) == before
    with over(command, two, upper, "--rebase"):
        assert os.listdir(at) == []
    assert recorded(upper)["image"] == f"dir:{two}"
    with overlaid(command, one, upper):  # overlayfs allows other lowers, and so do its options
        assert os.listdir(at) == []
    assert recorded(upper)["image"] == f"dir:{one}"


def test_what_is_only_believed_is_not_recorded(command: Command, tmp_path: Path) -> None:
    """A tar that was not verified has no known chain ID. So a mount over it removes nothing from
    the upper, and the next mount is compared with the base that was recorded before."""
    tar, at, upper = tmp_path / "layer.tar", tmp_path / "mnt", tmp_path / "upper"
    tar.write_bytes(TarWriter().file("f").file("g").tar())
    with mounted(command, tar, at, "--upper", upper):
        (at / "f").unlink()
    known = recorded(upper)
    assert known["chain"].startswith("sha256:")
    tar.write_bytes(TarWriter().file("g").file("h").tar())
    with mounted(command, tar, at, "--upper", upper, "--no-verify"):
        assert sorted(os.listdir(at)) == ["g", "h"]
        (at / "h").unlink()
    assert known.pop("sole") == "yes"
    assert recorded(upper) == known and names(upper) == ["f", "h"]
    refused(command, tar, at, "--upper", upper)
    tar.write_bytes(TarWriter().file("f").file("g").tar())
    with mounted(command, tar, at, "--upper", upper):
        assert os.listdir(at) == ["g"]
    assert names(upper) == ["f", "h"]


def test_a_rebase_adds_no_hard_links_of_other_layers(command: Command, tmp_path: Path) -> None:
    low = TarWriter().file("a", b"contents").hardlink("b", "a")
    one = docker_archive(tmp_path / "one.tar", [low.tar()])
    two = docker_archive(tmp_path / "two.tar", [low.hardlink("c", "a").tar()])
    at, upper = tmp_path / "mnt", tmp_path / "upper"
    with mounted(command, one, at, "--upper", upper):
        (at / "a").chmod(0o600)
    assert names(upper) == ["a", "b"]
    with mounted(command, two, at, "--upper", upper, "--rebase"):
        assert (at / "c").stat().st_mode & 0o777 == 0o600
    assert names(upper) == ["a", "b"] and recorded(upper)["image"].endswith("two.tar")
    with mounted(command, one, at, "--upper", upper, "--rebase"):
        assert sorted(os.listdir(at)) == ["a", "b"]
    assert recorded(upper)["image"].endswith("one.tar")
