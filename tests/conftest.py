"""Law: because this file is in `tests/`, pytest puts that directory on the import path (tarwriter,
imagewriter, oracle …).  It has the settings and fixtures that most tests need.

No test is skipped: if a program that a test needs is missing, the test fails.
"""

from __future__ import annotations

import os
import random
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from busyboximage import busybox_layers
from imagewriter import UNSAID, docker_archive
from xdist.scheduler import LoadFileScheduling

from fusemount import _native


def pytest_sessionstart(session: pytest.Session) -> None:
    if os.geteuid() != 0 or not os.path.exists("/dev/fuse"):
        pytest.exit("the suite mounts file systems: it needs root and /dev/fuse", returncode=2)
    # Under nohup(1) SIGHUP is ignored, and every program of the tests would inherit that.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    if "PYTEST_XDIST_WORKER" in os.environ:
        # Some tests make mount namespaces. Such a namespace gets a copy of every mount that it can
        # see, and a copy keeps the daemon of a mount alive: so no process may see the mounts of the
        # tests that run beside its own.
        _native.unshare(_native.CLONE_NEWNS)
        _native.mount("", "/", "", _native.MS_REC | _native.MS_PRIVATE, "")


@pytest.fixture(autouse=True)
def _own_limit() -> Iterator[None]:
    """An image of many layers raises the process's limit of descriptors, which others count."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


# Files whose tests take longest, longest first: a process that runs tests side by side with others
# should not begin one of these when the others are done.
_LONGEST = (
    "real/test_programs.py",
    "real/test_images.py",
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


_OF_THE_LARGE_IMAGE = ("real/test_programs.py", "real/test_images.py")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--shuffle", type=int, metavar="SEED", help="run the tests in random order")
    parser.addoption(
        "--layers",
        choices=("none", "gzip", "zstd"),
        default="none",
        help="how layers are compressed where a test does not say so",
    )
    parser.addoption("--long", action="store_true", help="run the tests marked `long` too")


def pytest_configure(config: pytest.Config) -> None:
    UNSAID.compress = config.getoption("--layers")
    config.addinivalue_line("markers", "long: takes more seconds than `make check` has")


class _ByFile(LoadFileScheduling):  # type: ignore[misc]
    """With `-n`, the tests of one file run in one process, so that they share its fixtures; those
    of the two files that use the large image (tests/real/conftest.py) too."""

    def _split_scope(self, nodeid: str) -> str:
        file = str(super()._split_scope(nodeid))
        return "the large image" if file.endswith(_OF_THE_LARGE_IMAGE) else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> _ByFile:
    return _ByFile(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--long"):
        config.hook.pytest_deselected(items=[x for x in items if x.get_closest_marker("long")])
        items[:] = [x for x in items if not x.get_closest_marker("long")]
    seed = config.getoption("--shuffle")
    if seed is not None:
        chance = random.Random(seed)
        chance.shuffle(items)
        # Each file in one piece, as `-n` runs it: else its fixtures are made again and again.
        files = sorted({item.path for item in items})
        chance.shuffle(files)
        items.sort(key=lambda item: files.index(item.path))
        return
    places = {(Path(__file__).parent / name): place for place, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


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
