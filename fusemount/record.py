"""Law: a small file that is kept says its version and its checksum in its first line.

    {"version":1,"sha256":"<of its key and what follows>"}
    ...

The key says what the file tells of ("facts/<identity>"): a whole file under another's name is as
good as none, as one that is damaged, cut or of another version is.  It is made again, and a line in
the log says so.  The checksum is against damage: who could forge it may not write there at all
(beneath.own_directory).
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from fusemount.ownfile import read_file

NOT_THERE = (FileNotFoundError, NotADirectoryError, PermissionError)  # nothing for us, that is


def sealed(rest: bytes, version: int, key: str) -> bytes:
    checksum = hashlib.sha256(key.encode() + b"\0" + rest)
    head = {"version": version, "sha256": checksum.hexdigest()}
    return json.dumps(head, separators=(",", ":")).encode() + b"\n" + rest


def unsealed(data: bytes, version: int, key: str) -> bytes:
    """What sealed() was given. Raises ValueError for anything else."""
    head, _, rest = data.partition(b"\n")
    if sealed(rest, version, key) != data:
        same = f'{{"version":{version},'.encode() == head[: len(str(version)) + 12]
        raise ValueError("its checksum is another" if same else "of another version, or damaged")
    return rest


def read_sealed(path: Path, version: int, key: str) -> bytes | None:
    """What is kept at path; None where nothing is, or nothing that is whole and of that key."""
    try:
        return unsealed(read_file(path), version, key)
    except NOT_THERE:
        return None
    except (OSError, ValueError) as error:
        say_damaged(path, error)
        return None


def say_damaged(path: Path, error: Exception | str) -> None:
    import logging  # which takes 10 ms to import, and hardly anything is ever damaged

    why = getattr(error, "strerror", None) or error
    logging.getLogger("imgmount").warning("%s: %s: it is made again", path, why)
