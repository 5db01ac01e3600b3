"""`--log FILE` where other users can write: what they have put there leads the log nowhere."""

from __future__ import annotations

import logging
import os
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from oracle import run

from fusemount.daemon.log import LOGGER, open_log
from fusemount.errors import ImgmountError

STRANGER = 65533


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before, propagate = LOGGER.handlers[:], LOGGER.propagate
    yield
    LOGGER.handlers[:], LOGGER.propagate = before, propagate


def log_line(file: Path) -> None:
    open_log(file, file.parent)
    LOGGER.warning("line")
    (handler,) = LOGGER.handlers
    assert isinstance(handler, logging.StreamHandler)
    handler.stream.close()


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A directory that all users can write to, as /tmp."""
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o1777)
    (tmp_path / "precious").write_text("precious")
    return tmp_path / "shared"


def symlink(at: Path) -> Path:
    at.symlink_to(at.parent.parent / "precious")
    return at


def dangling(at: Path) -> Path:
    at.symlink_to(at.parent.parent / "new")
    return at


def above(at: Path) -> Path:
    at.symlink_to(at.parent.parent)
    return at / "precious"


def fifo(at: Path) -> Path:
    os.mkfifo(at)
    return at


def hard_link(at: Path) -> Path:
    os.link(at.parent.parent / "precious", at)
    return at


@pytest.mark.parametrize("make", [symlink, dangling, above, fifo, hard_link])
def test_what_a_stranger_put_there_is_refused(
    tmp_path: Path, shared: Path, make: Callable[[Path], Path]
) -> None:
    file = make(shared / "log")
    if make is not hard_link:
        os.chown(shared / "log", STRANGER, STRANGER, follow_symlinks=False)
    # of a fifo: a reader that need never read
    reader = os.open(file, os.O_RDONLY | os.O_NONBLOCK) if make is fifo else -1
    with pytest.raises(ImgmountError, match="cannot log: ") as caught:
        open_log(file, tmp_path)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)
    if make is fifo:
        os.close(reader)
        with pytest.raises(ImgmountError, match="cannot log: No such device"):
            open_log(file, tmp_path)
    assert (tmp_path / "precious").read_text() == "precious"
    assert sorted(os.listdir(tmp_path)) == ["precious", "shared"]


def test_what_the_caller_put_there_is_followed(tmp_path: Path, shared: Path) -> None:
    for file in (symlink(shared / "log"), shared / "file", shared / "file"):
        log_line(file)
    assert (tmp_path / "precious").read_text().endswith("line\n")
    assert (shared / "file").read_text().count("line\n") == 2
    assert stat.S_IMODE((shared / "file").stat().st_mode) & 0o111 == 0


def test_an_open_file_is_a_log() -> None:
    """As in `--log /dev/stderr` and `--log >(logger)`."""
    script = "from fusemount.daemon.log import *; open_log(Path(sys.argv[1]), None)"
    script = f"import sys; {script}; LOGGER.warning('line')"
    for name in ("/dev/stderr", "/dev/fd/2"):
        assert b"WARNING line" in run(sys.executable, "-c", script, name).stderr
