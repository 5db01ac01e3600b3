"""Checks that errors name the other format if the format of an archive was guessed."""

from __future__ import annotations

from pathlib import Path

import pytest
from imagewriter import ImageSpec, docker_files, oci_files, write_archive
from mounted import Command
from tarwriter import TarWriter

LAYER = TarWriter().file("f", b"1").tar()


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path / "dirs")


def test_t22_other_platforms_of_a_hybrid(command: Command, tmp_path: Path) -> None:
    """containerd's store saves all platforms in the index, manifest.json names one."""
    mine, other = ImageSpec([LAYER]), ImageSpec([LAYER], config={"architecture": "s390x"})
    files = oci_files([mine, other]) | {
        name: data for name, data in docker_files([mine]).items() if name != "repositories"
    }
    path = write_archive(tmp_path / "hybrid.tar", files)
    missed = command("inspect", "--platform", "linux/s390x", path, check=False)
    assert missed.returncode == 6
    assert f"oci-archive:{path}" in missed.stderr
    found = command("inspect", "--platform", "linux/s390x", f"oci-archive:{path}")
    assert '"s390x"' in found.stdout


def test_a_root_file_system_with_a_manifest_json(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "app.tar"
    path.write_bytes(TarWriter().file("manifest.json", b'{"name": "app"}').tar())
    guessed = command("dump", path, check=False)
    assert guessed.returncode == 4
    assert f"tar:{path}" in guessed.stderr
    assert "/manifest.json" in command("dump", f"tar:{path}").stdout
