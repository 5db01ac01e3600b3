"""O_DIRECT writers while others read the file buffered."""

from __future__ import annotations

import sys
from pathlib import Path

from mounted import Command, Workshop, mounted
from oracle import run
from tarwriter import TarWriter


def test_buffered_readers_see_what_libaio_wrote_with_o_direct(
    tmp_path: Path, fastpath: bool
) -> None:
    command = Command(tmp_path / "dirs", fastpath)
    workshop = Workshop(command, tmp_path, [TarWriter().dir("d").tar()])
    cycle = str(Path(__file__).with_name("aiocycle.py"))
    with mounted(workshop.command, workshop.image, tmp_path / "at") as at:
        assert run(sys.executable, cycle, str(at / "file"), "60").stdout.strip() == b"0"
