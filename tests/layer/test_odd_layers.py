"""Members that are not shown as the layer's tar has them are logged, each time it is opened."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from layersetting import Setting, blob
from tarwriter import TarWriter


def test_m09_t17_the_log_says_what_is_shown_otherwise(
    tmp_path: Path, setting: Setting, caplog: pytest.LogCaptureFixture
) -> None:
    odd = TarWriter().file("a").file("../b", uid=2**32 - 1).hardlink("c", "../../a")
    tar = odd.add("z", typeflag=b"Z", data=b"lost").add("y", typeflag=b"Y").tar()
    caplog.set_level(logging.INFO, "imgmount")
    for _ in range(2):  # scanned, then kept
        caplog.clear()
        (layer,) = setting.open(blob(tmp_path / "layer", tar))
        assert [record.getMessage() for record in caplog.records] == [
            f"{layer.description}: 2 members' names lead out of the root by '..' and end at it; "
            "the first shows as 'b'",
            f"{layer.description}: 1 members' owners are no ids and show as 0; the first shows "
            "as 'b'",
            f"{layer.description}: 2 members of an unknown type are left out; the first is 'z'",
        ]
