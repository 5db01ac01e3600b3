"""Two processes at one directory, the second at every point of the first: no luck is needed."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from storing import clean, layer

from fusemount.store import Store
from fusemount.store.intake import put_document

_EVENTS = {"open", "os.listdir", "os.scandir", "os.mkdir", "os.rename", "os.remove"}
_armed: list[Callable[[str, str], None]] = []


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _armed and event in _EVENTS:
        _armed[-1](event, os.fsdecode(arguments[0]) if arguments[0] is not None else "")


sys.addaudithook(_hook)  # for the life of the process: there is no way to take one back


@contextmanager
def at_call(number: int, root: Path, other: Callable[[], None]) -> Iterator[list[str]]:
    """Runs other() before the block's numberth call that names something at or below root; not
    while the block has root's lock, for which other() would wait.  Yields the calls."""
    calls: list[str] = []

    def step(event: str, name: str) -> None:
        if not name.startswith(str(root)) or "locked" in calls:
            return
        if name == str(root / "lock"):
            calls.append("locked")
            return
        calls.append(f"{event} {name}")
        if len(calls) == number:
            _armed.append(lambda _event, _name: None)
            try:
                other()
            finally:
                _armed.pop()

    _armed.append(step)
    try:
        yield calls
    finally:
        _armed.pop()


@pytest.mark.parametrize("begun", ["", "root", "root/blobs/sha256"])
def test_a_store_is_made_while_another_makes_it(tmp_path: Path, begun: str) -> None:
    number, tried = 1, 0
    while True:
        root = tmp_path / str(number) / "root"
        (tmp_path / str(number) / begun).mkdir(parents=True)

        def bring(root: Path = root) -> None:
            put_document(Store(root, create=True).layout, layer("x"))

        with at_call(number, root, bring) as calls:
            store = Store(root, create=True)
        if len([call for call in calls if call != "locked"]) < number:
            break
        assert len(list(store.layout.blobs.iterdir())) == 1
        for blob in store.layout.blobs.iterdir():
            blob.unlink()
        clean(store, images=0)
        number, tried = number + 1, tried + 1
    assert tried > 3
