"""Mounts when our own directories cannot be written to."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from busyboximage import busybox_layers
from imagewriter import docker_archive
from mounted import Command

# $1: a directory that is made read-only, in a mount namespace of the script's own. $2: the image.
# $3: a mountpoint. The rest: `imgmount`.
SCRIPT = """
set -e
ro=$1 image=$2 at=$3 && shift 3
mount -t tmpfs -o ro none "$ro"
for flag in --read-only --upper="$at.upper"; do
    "$@" $flag "$image" "$at" && cat "$at/etc/second" && "$@" umount "$at"
done
"$@" --read-only --log "$ro/log" "$image" "$at" || echo "code $?"
"""


def test_cache_and_state_are_read_only(command: Command, tmp_path: Path) -> None:
    """Then there is no log, unless one was asked for, and no index is kept."""
    image = docker_archive(tmp_path / "image.tar", busybox_layers())
    (tmp_path / "ro").mkdir()
    (tmp_path / "m").mkdir()
    away = {f"IMGMOUNT_{what}_DIR": f"{tmp_path}/ro/{what.lower()}" for what in ("CACHE", "STATE")}
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", SCRIPT, "sh", tmp_path / "ro", image, tmp_path / "m",
         sys.executable, "-m", "fusemount"],
        env=command.environment | away, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.stdout == "2\n2\ncode 1\n", done.stderr
    assert done.stderr == f"imgmount: {tmp_path}/ro/log: cannot log: Read-only file system\n"
