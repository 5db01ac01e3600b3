"""The busybox image once a session, and a command with directories of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from busyboximage import busybox_layers
from imagewriter import docker_archive
from mounted import Command


@pytest.fixture(scope="session")
def busybox_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = {
        "config": {
            "Env": ["FROM_IMAGE=yes", "PATH=/bin"],
            "Entrypoint": ["/bin/sh", "-c"],
            "Cmd": ["echo from cmd"],
            "WorkingDir": "/tmp",
        }
    }
    path = tmp_path_factory.mktemp("image") / "busybox.tar"
    return docker_archive(path, busybox_layers(), config=config)


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path)
