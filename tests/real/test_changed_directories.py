"""`imgmount diff` and `commit` over unpacked layers, compared with the kernel's overlayfs over the
same directories and upper, and with the image as umoci and GNU tar unpack it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from mounted import Command
from oracle import differences, dump_directory, overlay, run, unpack
from test_committed_images import SCRIPT, layers
from treediff import tree_diff

# A mount by overlayfs' words is for programs that read the upper as plain files: the upper gets no
# marks of renamed directories and of metacopy files. The upper of an image does.
HOW = {
    "lowerdir": "lowerdir={top}:{low},upperdir={upper},workdir={work}",
    "dir": "upperdir={upper},workdir={work},suid,dev",
}


@dataclass
class Stack:
    """Two unpacked layers (low and top), an upper, and the words that mount them."""

    base: Path
    command: Command
    how: str

    @property
    def image(self) -> str:
        return f"dir:{self.base}/top:{self.base}/low"

    @property
    def upper(self) -> Path:
        return self.base / "upper"

    @contextmanager
    def mounted(self) -> Iterator[Path]:
        at = self.base / "mnt"
        at.mkdir(exist_ok=True)
        places = {name: self.base / name for name in ("low", "top", "upper", "work")}
        image = [self.image, at] if self.how == "dir" else [at]
        self.command(*image, "-o", HOW[self.how].format(**places))
        try:
            yield at
        finally:
            self.command("umount", at)

    @contextmanager
    def kernel(self) -> Iterator[tuple[Path, Path]]:
        """The kernel's overlayfs over the layers only, and over them with a copy of the upper."""
        lower = [self.base / "low", self.base / "top"]
        copy, work = self.base / "upper-copy", self.base / "kernel-work"
        run("cp", "-a", self.upper, copy)
        work.mkdir()
        with overlay(lower, self.base / "old") as old:
            with overlay(lower, self.base / "new", copy, work) as new:
                yield old, new
        run("rm", "-r", copy, work)

    def diff(self, place: Path, *words: str) -> list[bytes]:
        done = self.command("diff", "--json", place, *words)
        assert done.stderr == ""
        return [f"{row['kind']} {row['path']}".encode("utf-8", "surrogateescape")
                for row in json.loads(done.stdout)]  # fmt: skip

    def check(self, image: Path, lines: Sequence[bytes]) -> None:
        """Compares our OCI archive as other tools unpack it."""
        layout, bundle, tars = (image.with_suffix(f".{what}") for what in ("oci", "umoci", "tars"))
        run("skopeo", "copy", "-q", f"oci-archive:{image}", f"oci:{layout}:u")
        run("umoci", "unpack", "--image", f"{layout}:u", bundle)
        found = differences(dump_directory(bundle / "rootfs"), lines)
        assert not found, "umoci (ours) and the mount (theirs):\n" + found
        tars.mkdir()
        run("skopeo", "copy", "-q", f"oci-archive:{image}", f"docker-archive:{tars}/t:c:1")
        run("tar", "-x", "-C", tars, "-f", tars / "t")
        (entry,) = json.loads((tars / "manifest.json").read_text())
        (layer,) = entry["Layers"]
        found = differences(dump_directory(unpack((tars / layer).read_bytes(), tars / "u")), lines)
        assert not found, "GNU tar (ours) and the mount (theirs):\n" + found


@pytest.fixture(params=HOW)
def stack(tmp_path: Path, request: pytest.FixtureRequest) -> Stack:
    for name, tar in zip(("low", "top"), layers(), strict=True):
        unpack(tar, tmp_path / name)
    (tmp_path / "upper").mkdir()
    return Stack(tmp_path, Command(tmp_path / "dirs"), request.param)


def test_diff_and_commit_over_directories(stack: Stack) -> None:
    images = [stack.base / f"{i}.image" for i in range(3)]
    with stack.mounted() as at:
        run("bash", "-c", SCRIPT, cwd=at)
        lines, changed = dump_directory(at), stack.diff(at)
        stack.command("commit", at, "c:1", "-o", images[0])
    with stack.kernel() as (old, new):
        found = differences(dump_directory(new), lines)
        assert not found, "the kernel's overlayfs (ours) and the mount (theirs):\n" + found
        assert changed == tree_diff(old, new)
    assert stack.diff(stack.upper) == changed
    assert stack.diff(stack.upper, "--base", stack.image) == changed
    stack.command("commit", stack.upper, "c:1", "-o", images[1])
    stack.command("commit", stack.upper, "c:1", "--base", stack.image, "-o", images[2])
    layer = {json.loads(stack.command("inspect", image).stdout)[0]["RootFS"]["Layers"][0]
             for image in images}  # fmt: skip
    assert len(layer) == 1  # both archives have the same bytes
    stack.check(images[0], lines)
    with stack.mounted() as at:
        assert not differences(dump_directory(at), lines)


@pytest.mark.parametrize("stack", ["lowerdir"], indirect=True)
def test_an_upper_of_the_kernels_over_directories(stack: Stack) -> None:
    """The upper does not record its layers: --base names them.

    /one was copied up for a new name, and only that name was.  So it is no longer a hard link to
    the other names of its file in the layers, which `diff` counts as a change.
    """
    (stack.base / "work").mkdir()
    lower = [stack.base / "low", stack.base / "top"]
    with overlay(lower, stack.base / "mnt", stack.upper, stack.base / "work") as at:
        run("bash", "-c", SCRIPT, cwd=at)
        lines = dump_directory(at)
    failed = stack.command("diff", stack.upper, check=False)
    assert failed.returncode == 8 and "--base" in failed.stderr
    with stack.kernel() as (old, new):
        theirs = sorted([*tree_diff(old, new), b"C /one"], key=lambda line: line[2:])
    assert stack.diff(stack.upper, "--base", stack.image) == theirs
    image = stack.base / "k.image"
    stack.command("commit", stack.upper, "k:1", "--base", stack.image, "-o", image)
    stack.check(image, lines)
