"""Law: an opener of images for the tests here, which checks that no descriptor stays open."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fusemount.layer import SilentProgress
from fusemount.reference import parse_reference
from fusemount.settings import Directories, ImageOptions, Platform
from fusemount.sources import Image, open_image, path_exists

AMD64 = Platform("linux", "amd64")
Opener = Callable[..., Image]


def open_fds() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opener]:
    """open_image() for a text.  Closes every image and checks that no descriptor is left."""
    before = open_fds()
    images: list[Image] = []
    kept = tmp_path / "kept"
    directories = Directories(kept / "cache", kept / "state", kept / "run")

    def opener(text: object, verify: bool = True, platform: Platform | None = AMD64) -> Image:
        reference = parse_reference(str(text), path_exists)
        options = ImageOptions(platform, verify)
        image = open_image(reference, options, directories, SilentProgress())
        images.append(image)
        return image

    yield opener
    for image in images:
        image.close()
    assert open_fds() == before
