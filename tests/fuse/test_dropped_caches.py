"""R 39: tests of test_changes.py run again while the kernel's caches are dropped all the time.

Twice a second in the rule; ten times here, since a test lasts a tenth of a second.  With the fast
path, whose threads the kernel's FORGETs race with; programs do the same in tests/real.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import test_changes
from dropping import dropping_caches

AGAIN = (
    test_changes.test_r26_inode_numbers_last,
    test_changes.test_r31_one_name_written_all_names_changed,
    test_changes.test_r27_rename_files,
    test_changes.test_r27_a_lower_directory_renames,
    test_changes.test_r28_links,
    test_changes.test_r29_unlinked_but_open,
    test_changes.test_r35_listing_while_deleting,
    test_changes.test_r37_whiteouts_and_what_comes_after,
    test_changes.test_special_files,
)
at = test_changes.at


@pytest.fixture(autouse=True)
def dropped() -> Iterator[None]:
    with dropping_caches(0.1):
        yield


@pytest.mark.parametrize("fastpath", [True], ids=["fast"])
@pytest.mark.parametrize("test", AGAIN, ids=lambda test: test.__name__)
def test_r39_dropped_caches_change_nothing(test: object, at: Path) -> None:
    assert callable(test)
    test(at)
