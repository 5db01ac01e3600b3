"""A mount's target that is replaced by a symlink between check and mount (CVE-2021-30465).

A process that shares a volume with the command can do so at any moment; here it is the worst one.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# $1: a directory with image/v/t, host and source/file.
RACED = """
import os, sys
from fusemount import _native
from fusemount.sandbox.target import ImageRoot
from fusemount.errors import ImgmountError

base = sys.argv[1]
root = ImageRoot(os.open(f"{base}/image", os.O_PATH))
source = os.open(f"{base}/source", os.O_PATH)
mount = _native.mount

def raced(*words):
    os.rename(f"{base}/image/v/t", f"{base}/image/v/old")
    os.symlink(f"{base}/host", f"{base}/image/v/t")
    mount(*words)

_native.mount = raced
try:
    root.bind(source, "/v/t")
except ImgmountError as error:
    print(error)
print(os.listdir(f"{base}/host"), os.listdir(f"{base}/image/v/old"))
"""


def test_a_raced_target(tmp_path: Path) -> None:
    """The host's directory of that name is a directory of the image too, so it can be found."""
    for name in ("image/v/t", "host", "source", f"image/{tmp_path}/host"):
        (tmp_path / name.replace("//", "/")).mkdir(parents=True)
    (tmp_path / "source/file").touch()
    done = subprocess.run(
        ["unshare", "-m", sys.executable, "-c", RACED, tmp_path],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines() == [
        "cannot set up /v/t in the image: it was replaced meanwhile",
        "[] ['file']",
    ]
