"""Law: reads and writes the format of small kept files: the first line has version and checksum.

    {"version":1,"sha256":"<of its key and the rest>"}
    ...

The key names the subject of the file ("facts/<identity>").  So a file that was renamed to another's
name is invalid, as is one that is damaged, cut off or of another version.  An invalid file is
ignored and made again, and a line in the log reports it.  The checksum protects against damage, not
against forgery: other users cannot write to the directory (beneath.own_directory).
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from fusemount.ownfile import read_file

NOT_THERE = (FileNotFoundError, NotADirectoryError, PermissionError)  # no file that we can read


def sealed(rest: bytes, version: int, key: str) -> bytes:
    checksum = hashlib.sha256(key.encode() + b"\0" + rest)
    head = {"version": version, "sha256": checksum.hexdigest()}
    return json.dumps(head, separators=(",", ":")).encode() + b"\n" + rest


def unsealed(data: bytes, version: int, key: str) -> bytes:
    """The bytes that sealed() was given. Raises ValueError for an invalid file."""
    head, _, rest = data.partition(b"\n")
    if sealed(rest, version, key) != data:
        same = f'{{"version":{version},'.encode() == head[: len(str(version)) + 12]
        raise ValueError("its checksum is another" if same else "of another version, or damaged")
    return rest


def read_sealed(path: Path, version: int, key: str) -> bytes | None:
    """The bytes that are kept at path; None if there is no valid file of that key."""
    try:
        return unsealed(read_file(path), version, key)
    except NOT_THERE:
        return None
    except (OSError, ValueError) as error:
        say_damaged(path, error)
        return None


def say_damaged(path: Path, error: Exception | str) -> None:
    import logging  # importing it takes 10 ms, and damage is rare

    why = getattr(error, "strerror", None) or str(error)
    logging.getLogger("imgmount").warning("%s: %s: it is made again", path, why)
