"""Runs a second process at every call of the first, in one directory, so no luck is needed."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from storing import clean, files, layer

from fusemount.errors import ImgmountError, NotPermitted
from fusemount.store import Store
from fusemount.store.intake import put_document
from fusemount.store.removal import prune

_EVENTS = {"open", "os.listdir", "os.scandir", "os.mkdir", "os.rename", "os.remove"}
_armed: list[Callable[[str, str], None]] = []


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _armed and event in _EVENTS:
        name = arguments[0]
        _armed[-1](event, os.fsdecode(name) if isinstance(name, str | bytes | Path) else "")


sys.addaudithook(_hook)  # an audit hook cannot be removed


@contextmanager
def at_call(
    number: int, root: Path, other: Callable[[], None], *, waits: bool = True
) -> Iterator[list[str]]:
    """Runs other() before the call number `number` of the block that names a path at or below root.

    If other() waits for a lock, it runs when the block does not have root's lock.  Yields the
    calls.
    """
    calls: list[str] = []

    def step(event: str, name: str) -> None:
        if not name.startswith(str(root)) or "locked" in calls:
            return
        if waits and name == str(root / "lock"):
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


def test_no_exchange_above_a_store_makes_prune_delete_in_another(tmp_path: Path) -> None:
    """The owner of the directory above root's store exchanges it for another one of root's."""
    other = Store(tmp_path / "other", create=True)
    put_document(other.layout, layer("other"))
    before = files(other)
    number, refused = 1, ""
    while True:
        theirs = tmp_path / str(number)
        put_document(Store(theirs / "root", create=True).layout, layer("x"))
        os.chown(theirs, 65533, 65533)

        def exchange(theirs: Path = theirs) -> None:
            (theirs / "root").rename(theirs / "away")
            (theirs / "root").symlink_to(other.root)

        with at_call(number, theirs / "root", exchange, waits=False) as calls:
            try:
                prune(Store(theirs / "root"))
            except NotPermitted as error:
                refused = str(error)
            except (OSError, ImgmountError):
                pass  # the error that it met
        assert files(other) == before, f"at call {number}, {calls[-1]}"
        if len(calls) < number:
            break
        number += 1
    assert f"{theirs} above it belongs to uid 65533" in refused
