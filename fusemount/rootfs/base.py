"""Law: the base of an upper is the image that the upper was made over.  This module has it as a
value, keeps it in a mark on the upper's root, and decides whether another image is the same base.

Images are compared by their layers (the chain ID) and by how these are stacked, never by name: an
image that was moved, renamed, compressed again or put into another form of archive is the same.  If
the chain ID is not known (an older version recorded the upper), the image ID is compared instead.
Directories, and tars that were not verified, have no identity.  If their path differs,
the base differs; if it is the same, the base may be the same.

The mark is compact JSON in the xattr <P>imgmount.base of the upper's root (<P> is in objects.py):

    {"image":"docker-archive:/srv/ubuntu.tar","id":"sha256:…","chain":"sha256:…",
     "platform":"linux/arm64","symlink-parents":"follow","sole":"yes"}

Keys with an empty value are left out; unknown keys are ignored.
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

    image: a reference that means the same from any directory.  image_id: "" if there is no ID.
    chain: the chain ID (image-spec, config.md) of its layers, "" where it is not known.
    platform: the one that was asked for, "" for the machine's own.
    sole: the upper was empty when it was first mounted over these layers, and was never over
    others; otherwise its whiteouts may hide names of other layers.  moves: the same directories may
    be given by other paths, as overlayfs allows (`lowerdir=`); not recorded.
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
    """Whether an image is the base of an upper.

    SAME: an identity proves it.  UNKNOWN: nothing was recorded; or only names can be compared, and
    they do not contradict.
    """

    SAME = "same"
    OTHER = "other"
    UNKNOWN = "unknown"


def fit(known: Base | None, now: Base) -> Fit:
    """known: the base that the upper has recorded."""
    if known is None:
        return Fit.UNKNOWN
    if known.follow_symlink_parents != now.follow_symlink_parents:
        return Fit.OTHER
    if known.chain and now.chain:
        return Fit.SAME if known.chain == now.chain else Fit.OTHER
    known_id, ids = known.chain or known.image_id, {now.image_id, now.chain} - {""}
    if known.image_id and known.image_id in ids:
        return Fit.SAME
    if known_id and ids:
        return Fit.OTHER
    may_be = known.image == now.image or (now.moves and not (known_id or ids))
    return Fit.UNKNOWN if may_be else Fit.OTHER


def difference(known: Base, now: Base) -> str:
    """Describes to a user how a base that is OTHER differs."""
    alike = replace(known, follow_symlink_parents=now.follow_symlink_parents)
    if fit(alike, now) is Fit.OTHER:
        return f"made over {known}, not over {now}"
    return f"made with {known.stacking}, not with {now.stacking}"


def follows_symlink_parents(
    upper: Path, upper_fd: int, asked: bool | None, *, userxattr: bool
) -> bool:
    """Whether the layers below an upper, which may be in use, are stacked with
    symlink-parents=follow: as asked; or, if asked is None, as the upper has recorded.

    upper: its path, for errors. Raises UpperError."""
    if asked is not None:
        return asked
    looked_at = Upper(upper, None, at=upper_fd, live=True, userxattr=userxattr)
    try:
        known = recorded_base(looked_at)
    finally:
        looked_at.close()
    return known is not None and known.follow_symlink_parents


def check_base(upper: Upper, now: Base, *, rebase: bool = False) -> Fit:
    """Raises UpperError, which names both images, if the upper belongs to another image and is not
    to be rebased."""
    known = recorded_base(upper)
    found = fit(known, now)
    if known is not None and found is Fit.OTHER and not rebase:
        raise UpperError(
            f"{upper.path}: {difference(known, now)}: mount it as it was made, or with --rebase "
            "(--rebase --dry-run says first what would be dropped)"
        )
    return found


def keep_base(upper: Upper, base: Base, *, rebase: bool, adopted: bool) -> None:
    """Records the base of an upper.

    If this base cannot be proved to be the recorded one, the recorded one stays, but is not `sole`
    any more. Raises OSError; an upper that cannot store the mark can be mounted without it."""
    known = recorded_base(upper)
    nothing_to_lose = known is None or not (known.image_id or known.chain)
    if rebase or nothing_to_lose or fit(known, base) is Fit.SAME:
        record_base(upper, replace(base, sole=not adopted))
    elif known is not None:
        record_base(upper, replace(known, sole=False))


def is_adopted(upper: Upper) -> bool:
    """Whether the upper may have been over other layers than the recorded ones."""
    known = recorded_base(upper)
    return known is None or not known.sole


def record_base(upper: Upper, base: Base) -> None:
    """Raises OSError."""
    fields = {
        "image": base.image,
        "id": base.image_id,
        "chain": base.chain,
        "platform": base.platform,
        "symlink-parents": "follow" if base.follow_symlink_parents else "",
        "sole": "yes" if base.sole else "",
    }
    fields = {key: value for key, value in fields.items() if value}
    data = json.dumps(fields, separators=(",", ":")).encode("ascii")
    if upper.mark(upper.fd, b".", MARK) != data:
        upper.set_mark(upper.fd, b".", MARK, data)


def recorded_base(upper: Upper) -> Base | None:
    """None if nothing was recorded, or nothing that can be parsed."""
    data = upper.mark(upper.fd, b".", MARK)
    try:
        fields = json.loads(data or b"")
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, dict) or not isinstance(fields.get("image"), str):
        return None
    words = {key: value for key, value in fields.items() if isinstance(value, str)}
    return Base(
        image=words["image"],
        image_id=words.get("id", ""),
        chain=words.get("chain", ""),
        platform=words.get("platform", ""),
        follow_symlink_parents=words.get("symlink-parents") == "follow",
        sole=words.get("sole") == "yes",
    )
