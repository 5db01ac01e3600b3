"""Makes a small real Debian root as a tar with mmdebstrap, and keeps it for later sessions.

Law: it is kept in the user's cache, under a key of all that decides its contents (the mirror's
signed release file, the packages, the tool's version).  A kept tar is used only if its SHA-256 is
the one beside it; else it is made anew, in about half a minute.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

import hostapt
from oracle import run

_VARIANT = ["--variant=essential", "--include=apt"]
_WITHOUT = ("doc", "locale", "man", "info")


def debian_root() -> Path:
    """The tar; its first entry is `./`. Raises AssertionError if it cannot be made."""
    kept = kept_files() / f"{_key()}.tar"
    note = kept.with_suffix(".sha256")
    if kept.exists() and note.exists() and note.read_text() == _digest(kept):
        return kept
    for old in kept.parent.glob("*.tar"):
        old.unlink(missing_ok=True)
        old.with_suffix(".sha256").unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="new-", dir=kept.parent) as scratch:
        built = Path(scratch) / "root.tar"
        _build(built, scratch)
        note.write_text(_digest(built))
        built.rename(kept)
    return kept


def kept_files() -> Path:
    """The directory of the files that tests keep for later sessions."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    directory = base / "imgmount-tests"
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def _key() -> str:
    decides = hashlib.sha256(hostapt.release_file())
    for part in (run("mmdebstrap", "--version").stdout, repr(_command("")).encode()):
        decides.update(part)
    return decides.hexdigest()[:32]


def _digest(path: Path) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _command(target: str | Path) -> list[str | Path]:
    command: list[str | Path] = ["mmdebstrap", "--quiet", "--mode=root", *_VARIANT]
    if hostapt.mirror().startswith("https:"):
        command.append("--include=ca-certificates")
    command += [f"--aptopt={line}" for line in hostapt.settings()]
    command += ['--aptopt=Acquire::Languages "none"', "--dpkgopt=force-unsafe-io"]
    command += [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in _WITHOUT]
    return [*command, "--format=tar", hostapt.SUITE, target, hostapt.mirror()]


def _build(target: Path, scratch: str) -> None:
    run(*_command(target), env=os.environ | {"TMPDIR": scratch})
