"""The base of an upper compared with an image (rootfs/base.py): the same only by an identity,
another one if anything known differs."""

from __future__ import annotations

import pytest

from fusemount.rootfs.base import Base, Fit, fit

A, B = "sha256:" + "a" * 64, "sha256:" + "b" * 64
OVER_A = Base("tar:/a", image_id="sha256:1", chain=A)


@pytest.mark.parametrize(
    ("known", "now", "found"),
    [
        (None, OVER_A, Fit.UNKNOWN),
        (OVER_A, Base("tar:/moved", chain=A), Fit.SAME),
        (OVER_A, Base("tar:/a", image_id="sha256:1", chain=B), Fit.OTHER),
        (OVER_A, Base("tar:/a", chain=A, follow_symlink_parents=True), Fit.OTHER),
        (Base("tar:/a", image_id="sha256:1"), OVER_A, Fit.SAME),
        (Base("tar:/a", image_id="sha256:2"), OVER_A, Fit.OTHER),
        (OVER_A, Base("tar:/a"), Fit.UNKNOWN),
        (OVER_A, Base("tar:/b"), Fit.OTHER),
        (OVER_A, Base("tar:/a", follow_symlink_parents=True), Fit.OTHER),
        (Base("dir:/a"), Base("dir:/a"), Fit.UNKNOWN),
        (Base("dir:/a"), Base("dir:/b"), Fit.OTHER),
        (Base("tar:/a"), OVER_A, Fit.UNKNOWN),
        (Base("dir:/a"), OVER_A, Fit.OTHER),
    ],
)
def test_fit(known: Base | None, now: Base, found: Fit) -> None:
    assert fit(known, now) is found
