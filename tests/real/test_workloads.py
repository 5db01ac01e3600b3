"""R 33, R 44: programs give the same output and trees on a mount and on a plain directory, and the
trees are the same after a remount.  `make soak` runs more of each program."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from mounted import Command, Workshop
from oracle import differences, overlay, run, unpack
from twosides import comparable
from workloads import WORKLOADS, perform, workload_layers


@dataclass(frozen=True)
class Wanted:
    words: str
    trees: dict[str, list[bytes]]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Wanted]]:
    """Output and trees of a workload on a copy of the image's tree; each workload runs once."""
    base = tmp_path_factory.mktemp("plain")
    unpacked = [unpack(tar, base / f"layer{i}") for i, tar in enumerate(workload_layers())]
    with overlay(unpacked, base / "kernel") as at:
        run("cp", "-a", at, base / "original")

    @cache
    def wanted(name: str) -> Wanted:
        run("cp", "-a", base / "original", base / name)
        words = perform(WORKLOADS[name], base / name, 1)
        trees = {tree: comparable(base / name / tree) for tree in WORKLOADS[name].trees}
        run("rm", "-r", base / name)
        return Wanted(words, trees)

    yield wanted
    run("rm", "-r", base)


WITH_PYFUSE3 = {
    "fio",
    "sqlite",
    "rsync",
}  # pyfuse3 is slow, so only the workloads with the most kinds of writes
CASES = [(name, True) for name in WORKLOADS] + [(name, False) for name in sorted(WITH_PYFUSE3)]


@pytest.mark.parametrize(
    ("name", "fastpath"), CASES, ids=[f"{n}-{'fast' if f else 'pyfuse3'}" for n, f in CASES]
)
def test_r44_the_same_words_and_trees(
    name: str, plain: Callable[[str], Wanted], tmp_path: Path, fastpath: bool
) -> None:
    wanted = plain(name)
    workshop = Workshop(Command(tmp_path / "dirs", fastpath), tmp_path, workload_layers())
    for turn in ("at once", "mounted again"):
        with workshop.mounted() as at:
            if turn == "at once":
                assert perform(WORKLOADS[name], at, 1) == wanted.words
            for tree, lines in wanted.trees.items():
                found = differences(comparable(at / tree), lines)
                assert not found, f"{tree}, {turn}: the mount (ours), ext4 (theirs):\n{found}"
