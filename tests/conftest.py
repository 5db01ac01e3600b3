"""Law: this file's place puts `tests/` on the import path (tarwriter, imagewriter, oracle …).

No test is skipped: one that needs what is not there fails.  What nearly all need is said once here.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from busyboximage import busybox_layers
from imagewriter import docker_archive

from fusemount import _native


def pytest_sessionstart(session: pytest.Session) -> None:
    if os.geteuid() != 0 or not os.path.exists("/dev/fuse"):
        pytest.exit("the suite mounts file systems: it needs root and /dev/fuse", returncode=2)
    if "PYTEST_XDIST_WORKER" in os.environ:
        # Some tests make mount namespaces. Such a namespace gets a copy of every mount that it can
        # see, and a copy keeps the daemon of a mount alive: so no process may see the mounts of the
        # tests that run beside its own.
        _native.unshare(_native.CLONE_NEWNS)
        _native.mount("", "/", "", _native.MS_REC | _native.MS_PRIVATE, "")


# Files whose tests take longest, longest first: a process that runs tests side by side with others
# should not begin one of these when the others are done.
_LONGEST = (
    "real/test_programs.py",
    "fuse/test_fastpath.py",
    "fuse/test_pushed_files.py",
    "fuse/test_limits.py",
    "real/test_workloads.py",
    "fuse/test_changes.py",
    "faults/test_errors.py",
    "faults/test_crash.py",
    "daemon/test_lowerdir.py",
    "fuse/test_lossless.py",
    "capture/test_commit.py",
    "transfer/test_copying.py",
    "fuse/test_privileges.py",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--shuffle", type=int, metavar="SEED", help="run the tests in random order")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With `-n`, the tests of one file run in one process, so that they share its fixtures. Tests
    that use the large image (tests/real/conftest.py) run in one process too."""
    tests = Path(__file__).parent

    def group(item: pytest.Item) -> str:
        uses_image = {"real", "docker_archive"} & set(getattr(item, "fixturenames", ()))
        return "the large image" if uses_image else item.path.relative_to(tests).as_posix()

    def order(item: pytest.Item) -> int:
        name = group(item)
        if name == "the large image":
            return -1
        return _LONGEST.index(name) if name in _LONGEST else len(_LONGEST)

    for item in items:
        item.add_marker(pytest.mark.xdist_group(group(item)))
    seed = config.getoption("--shuffle")
    if seed is None:
        items.sort(key=order)
    else:
        random.Random(seed).shuffle(items)


@pytest.fixture(params=[True, False], ids=["fast", "pyfuse3"])
def fastpath(request: pytest.FixtureRequest) -> bool:
    """For `Command`: its mounts are served by the fast path, and by pyfuse3 alone."""
    return bool(request.param)


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
