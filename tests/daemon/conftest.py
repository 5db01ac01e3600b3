"""A genuine small root file system (Debian's static busybox) as an image, and a command for it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from imagewriter import docker_archive
from mounted import Command
from tarwriter import TarWriter

from fusemount.daemon.mountinfo import mounts

APPLETS = ("cat", "echo", "hostname", "id", "ls", "mkdir", "pwd", "rm", "sh", "sleep", "test",
           "touch", "true")  # fmt: skip

PASSWD = b"root:x:0:0::/root:/bin/sh\nalice:x:1000:1001::/home/alice:/bin/sh\n"
GROUP = b"root:x:0:\nalice:x:1001:\nextra:x:50:alice\nother:x:51:bob\n"


def needs_root_and_fuse() -> bool:
    return os.geteuid() != 0 or not os.path.exists("/dev/fuse")


def busybox_layers() -> list[bytes]:
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("no busybox-static")
    program = Path(busybox).read_bytes()
    t = TarWriter().dir("bin").file("bin/busybox", program, mode=0o755).dir("etc")
    for applet in APPLETS:
        t.symlink(f"bin/{applet}", "busybox")
    t.file("etc/passwd", PASSWD).file("etc/group", GROUP).file("etc/motd", b"hello\n")
    second = TarWriter().dir("tmp", mode=0o1777).dir("etc").file("etc/second", b"2\n")
    return [t.tar(), second.tar()]


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


def left_behind(base: Path) -> list[str]:
    """Mounts, scratches and records below base."""
    found = [f"mounted: {m.mountpoint}" for m in mounts() if base in m.mountpoint.parents]
    found += [str(p) for p in base.glob("state/uppers/*")]
    found += [str(p) for p in base.glob("runtime/*")]
    return found
