"""Law: in every test here, a call of os.* with a directory's descriptor gets only one name.

An untrusted user may change an upper's directories at any time; see
tests/words/test_beneath_only.py.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import pytest

_CALLS = (
    "open", "stat", "chmod", "chown", "utime", "link", "mkdir", "mknod", "mkfifo", "readlink",
    "rename", "replace", "rmdir", "symlink", "unlink", "access",
)  # fmt: skip
_DIRECTORIES = ("dir_fd", "src_dir_fd", "dst_dir_fd")


def _checked(call: Callable[..., Any], name: str) -> Callable[..., Any]:
    @functools.wraps(call)
    def checked(*args: Any, **kwargs: Any) -> Any:
        if any(kwargs.get(d) is not None for d in _DIRECTORIES):
            places = args[1:2] if name == "symlink" else args[:2]
            for place in places:
                if isinstance(place, str | bytes) and not os.path.isabs(place):
                    assert "/" not in os.fsdecode(place), f"os.{name}: {place!r}"
        return call(*args, **kwargs)

    return checked


@pytest.fixture(autouse=True)
def one_name_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in _CALLS:
        monkeypatch.setattr(os, name, _checked(getattr(os, name), name))
