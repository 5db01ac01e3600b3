"""Runs several processes at one store: random verbs, and two that bring the same image."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest
from imagewriter import docker_archive, oci_archive
from storestress import Stress
from storing import clean, layer, load
from tarwriter import TarWriter

from fusemount.imagename import parse_name
from fusemount.store import Store
from fusemount.store.removal import prune, remove


@pytest.mark.parametrize("seed", [1, 2])
def test_random_verbs_of_eight_processes(tmp_path: Path, seed: int) -> None:
    problems = Stress(tmp_path, seed).run(processes=8, seconds=4)
    assert not problems, "\n".join(problems)


def _together(count: int, work: object, *arguments: object) -> None:
    """Runs work() in several processes that begin at the same time."""
    context = multiprocessing.get_context("fork")
    gate, opened = os.pipe()

    def begin() -> None:
        os.close(opened)
        os.read(gate, 1)
        work(*arguments)  # type: ignore[operator]

    workers = [context.Process(target=begin) for _ in range(count)]
    for worker in workers:
        worker.start()
    os.close(opened)
    os.close(gate)
    for worker in workers:
        worker.join(30)
    _all_well(workers)


def _all_well(workers: Sequence[multiprocessing.process.BaseProcess]) -> None:
    codes = [worker.exitcode for worker in workers]
    for worker in workers:
        worker.close()
    assert codes == [0] * len(workers)


@pytest.mark.parametrize("writer", [oci_archive, docker_archive])
@pytest.mark.parametrize("how", ["none", "gzip"])
def test_one_image_loaded_by_several_at_once(
    store: Store, tmp_path: Path, writer: object, how: str
) -> None:
    tars = [TarWriter().file("n", Random(n).randbytes(300_000)).tar() for n in range(3)]
    archive = writer(tmp_path / "in", tars, tags=["a:1"], compress=how)  # type: ignore[operator]
    _together(4, load, store, archive)
    prune(store)
    clean(store, images=1)
    assert len(list(store.layout.blobs.iterdir())) == 5
    assert os.listdir(store.layout.ingest) == os.listdir(store.layout.leases) == []


def test_several_make_one_store_at_once(tmp_path: Path) -> None:
    archive = oci_archive(tmp_path / "in", [layer("x")], tags=["a:1"])

    def make() -> None:
        load(Store(tmp_path / "root", create=True), archive)

    for _ in range(3):
        _together(4, make)
        store = Store(tmp_path / "root")
        clean(store, images=1)
        (tmp_path / "root").rename(tmp_path / f"old{len(os.listdir(tmp_path))}")


def test_names_of_several_all_stand(store: Store, tmp_path: Path) -> None:
    """Only one process at a time reads and writes index.json."""
    load(store, oci_archive(tmp_path / "in", [layer("x")], tags=["a:1"]))

    def tag() -> None:
        for n in range(10):
            store.tag("a:1", parse_name(f"p{os.getpid()}:{n}"))

    _together(4, tag)
    assert len(store.find("a:1").names) == 41
    clean(store, images=1)


def test_a_load_beside_removals_stays_whole(store: Store, tmp_path: Path) -> None:
    """Blobs that a load found in the store stay until it has added its image."""
    shared = TarWriter().file("n", Random(1).randbytes(200_000)).tar()
    archives = [
        oci_archive(tmp_path / f"in{n}", [shared, layer(f"{n}")], tags=[f"a{n}:1"], compress="gzip")
        for n in range(2)
    ]
    load(store, archives[0])

    def loading() -> None:
        for _ in range(10):
            load(store, archives[1])

    def removing() -> None:
        for _ in range(10):
            load(store, archives[0])
            remove(store, "a0:1")
            prune(store)

    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=work) for work in (loading, removing)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    _all_well(workers)
    prune(store)
    clean(store, images=1)
