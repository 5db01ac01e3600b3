"""Law: what an upper belongs to, as a value and as the bytes that stay with the upper.

The bytes are compact JSON in the xattr <P>imgmount.base of the upper's root (upper.py has <P>):

    {"image":"docker-archive:/srv/ubuntu.tar","id":"sha256:…","platform":"linux/arm64",
     "symlink-parents":"follow"}

Keys that say nothing are left out; keys that are not known are passed over.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from fusemount.rootfs.upper import Upper

MARK = b"imgmount.base"


@dataclass(frozen=True)
class Base:
    """The image below an upper, and how its layers were stacked.

    image: a reference that says the same from any directory.  image_id: "" for what has no ID.
    platform: as it was asked for, "" for the machine's own.
    """

    image: str
    image_id: str = ""
    platform: str = ""
    follow_symlink_parents: bool = False


def record_base(upper: Upper, base: Base) -> None:
    """Raises OSError; an upper that does not take it goes on without."""
    said = {
        "image": base.image,
        "id": base.image_id,
        "platform": base.platform,
        "symlink-parents": "follow" if base.follow_symlink_parents else "",
    }
    said = {key: value for key, value in said.items() if value}
    data = json.dumps(said, separators=(",", ":")).encode("ascii")
    if upper.mark(upper.fd, b".", MARK) != data:
        upper.set_mark(upper.fd, b".", MARK, data)


def recorded_base(upper: Upper) -> Base | None:
    """None where nothing, or nothing that can be understood, was recorded."""
    data = upper.mark(upper.fd, b".", MARK)
    try:
        said = json.loads(data or b"")
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict) or not isinstance(said.get("image"), str):
        return None
    words = {key: value for key, value in said.items() if isinstance(value, str)}
    return Base(
        image=words["image"],
        image_id=words.get("id", ""),
        platform=words.get("platform", ""),
        follow_symlink_parents=words.get("symlink-parents") == "follow",
    )
