"""Law: what an upper belongs to, as a value and as the bytes that stay with the upper; and whether
an image is that.

An image is known by its layers (the chain ID) and by how they are stacked, never by its name:
moved, renamed, compressed anew or in another form of archive, it is the same.  The image ID stands
for the layers where they are not known (an upper that an older version recorded).  Directories, and
tars that were not verified, have no identity: another path is another base, the same path may be.

The bytes are compact JSON in the xattr <P>imgmount.base of the upper's root (objects.py has <P>):

    {"image":"docker-archive:/srv/ubuntu.tar","id":"sha256:…","chain":"sha256:…",
     "platform":"linux/arm64","symlink-parents":"follow","sole":"yes"}

Keys that say nothing are left out; keys that are not known are passed over.
"""

from __future__ import annotations

import json
from dataclasses import replace
from enum import Enum
from pathlib import Path

from fusemount.dataclass import dataclass
from fusemount.errors import UpperError
from fusemount.rootfs.upper import Upper

MARK = b"imgmount.base"


@dataclass(frozen=True)
class Base:
    """The image below an upper, and how its layers were stacked.

    image: a reference that says the same from any directory.  image_id: "" for what has no ID.
    chain: the chain ID (image-spec, config.md) of its layers, "" where they are not known.
    platform: as it was asked for, "" for the machine's own.
    sole: the upper was empty when it came to these layers, and has belonged to no others since;
    else its whiteouts may hide what other layers have.  moves: who mounts it may name the same
    directories otherwise, as overlayfs lets them (`lowerdir=`); not recorded.
    """

    image: str
    image_id: str = ""
    chain: str = ""
    platform: str = ""
    follow_symlink_parents: bool = False
    sole: bool = False
    moves: bool = False

    @property
    def stacking(self) -> str:
        return f"symlink-parents={'follow' if self.follow_symlink_parents else 'replace'}"

    def __str__(self) -> str:
        known = self.image_id or self.chain
        return f"{self.image} ({known})" if known else self.image


class Fit(Enum):
    """Whether an image is the one that an upper belongs to.

    SAME: by an identity.  UNKNOWN: nothing was recorded, or nothing but the name can be compared
    and nothing speaks against it.
    """

    SAME = "same"
    OTHER = "other"
    UNKNOWN = "unknown"


def fit(known: Base | None, now: Base) -> Fit:
    """known: as the upper has it."""
    if known is None:
        return Fit.UNKNOWN
    if known.follow_symlink_parents != now.follow_symlink_parents:
        return Fit.OTHER
    if known.chain and now.chain:
        return Fit.SAME if known.chain == now.chain else Fit.OTHER
    said, ids = known.chain or known.image_id, {now.image_id, now.chain} - {""}
    if known.image_id and known.image_id in ids:
        return Fit.SAME
    if said and ids:
        return Fit.OTHER
    may_be = known.image == now.image or (now.moves and not (said or ids))
    return Fit.UNKNOWN if may_be else Fit.OTHER


def difference(known: Base, now: Base) -> str:
    """Of what is OTHER, for people."""
    alike = replace(known, follow_symlink_parents=now.follow_symlink_parents)
    if fit(alike, now) is Fit.OTHER:
        return f"made over {known}, not over {now}"
    return f"made with {known.stacking}, not with {now.stacking}"


def follows_symlink_parents(
    upper: Path, upper_fd: int, asked: bool | None, *, userxattr: bool
) -> bool:
    """How the layers are stacked below an upper that may be in use: as asked (None: nobody said),
    else as the upper records it. upper: its path, for errors. Raises UpperError."""
    if asked is not None:
        return asked
    looked_at = Upper(upper, None, at=upper_fd, live=True, userxattr=userxattr)
    try:
        known = recorded_base(looked_at)
    finally:
        looked_at.close()
    return known is not None and known.follow_symlink_parents


def check_base(upper: Upper, now: Base, *, rebase: bool = False) -> Fit:
    """Raises UpperError, which names both, where the upper belongs to another image and shall not
    be rebased."""
    known = recorded_base(upper)
    found = fit(known, now)
    if known is not None and found is Fit.OTHER and not rebase:
        raise UpperError(
            f"{upper.path}: {difference(known, now)}: mount it as it was made, or with --rebase "
            "(--rebase --dry-run says first what would be dropped)"
        )
    return found


def keep_base(upper: Upper, base: Base, *, rebase: bool, adopted: bool) -> None:
    """What was recorded stays where this base can only be believed to be the same, but is the sole
    one no more. Raises OSError; an upper that does not take it goes on without."""
    known = recorded_base(upper)
    nothing_to_lose = known is None or not (known.image_id or known.chain)
    if rebase or nothing_to_lose or fit(known, base) is Fit.SAME:
        record_base(upper, replace(base, sole=not adopted))
    elif known is not None:
        record_base(upper, replace(known, sole=False))


def is_adopted(upper: Upper) -> bool:
    """Whether it may have been made over other layers than those that are recorded."""
    known = recorded_base(upper)
    return known is None or not known.sole


def record_base(upper: Upper, base: Base) -> None:
    """Raises OSError."""
    said = {
        "image": base.image,
        "id": base.image_id,
        "chain": base.chain,
        "platform": base.platform,
        "symlink-parents": "follow" if base.follow_symlink_parents else "",
        "sole": "yes" if base.sole else "",
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
        chain=words.get("chain", ""),
        platform=words.get("platform", ""),
        follow_symlink_parents=words.get("symlink-parents") == "follow",
        sole=words.get("sole") == "yes",
    )
