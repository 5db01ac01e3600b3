"""`run` leaves the same in an upper as podman leaves in a container that does the same."""

from __future__ import annotations

from pathlib import Path

import pytest
from buildahimage import Buildah
from busyboximage import busybox_layers
from imagewriter import docker_archive
from mounted import Command

SCRIPT = "echo new > /etc/new; rm /etc/motd; mkdir /made; touch /dev/x; echo z >> /etc/hosts"


def test_what_is_mounted_on_is_no_change(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    config = {"config": {"Env": ["PATH=/bin"]}}
    image = docker_archive(tmp_path / "i.tar", busybox_layers(), tags=["t:1"], config=config)
    volume = tmp_path / "volume"
    volume.mkdir()
    more = ("-v", f"{volume}:/data/deep", "-v", f"{image}:/srv/file")
    command = Command(tmp_path / "dirs")
    command("run", *more, "--upper", tmp_path / "upper", image, "sh", "-c", SCRIPT)
    ours = command("diff", tmp_path / "upper").stdout.splitlines()

    podman = Buildah(tmp_path_factory.mktemp("p"), "vfs")  # it refuses paths of over 50 characters
    limits = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000")
    try:
        podman.podman("--runtime", "runc", "--cgroup-manager", "cgroupfs", "run", *limits, *more,
                      "--network", "none", "--name", "box", f"docker-archive:{image}",
                      "sh", "-c", SCRIPT)  # fmt: skip
        theirs = podman.podman("diff", "box").splitlines()
    finally:
        podman.clean()
    assert ours == sorted(theirs, key=lambda line: line[2:])
    assert ours == ["A /data", "A /data/deep", "C /etc", "D /etc/motd", "A /etc/new", "A /made",
                    "A /srv", "A /srv/file"]  # fmt: skip
