"""Law: this file's place puts `tests/` on the import path (tarwriter, imagewriter, oracle …).

No test is skipped: one that needs what is not there fails.  What nearly all need is said once here.
"""

from __future__ import annotations

import os

import pytest


def pytest_sessionstart(session: pytest.Session) -> None:
    if os.geteuid() != 0 or not os.path.exists("/dev/fuse"):
        pytest.exit("the suite mounts file systems: it needs root and /dev/fuse", returncode=2)


@pytest.fixture(params=[True, False], ids=["fast", "pyfuse3"])
def fastpath(request: pytest.FixtureRequest) -> bool:
    """For `Command`: its mounts are served by the fast path, and by pyfuse3 alone."""
    return bool(request.param)
