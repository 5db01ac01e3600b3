"""Law: several processes run random verbs on one store; each sees only complete images.

    Stress(directory, seed).run(processes=8, seconds=3)      problems, one line each
    python tests/storestress.py DIRECTORY --seed 3 --seconds 60

A verb may fail because an image is missing (another process removed it) or in use.  Any other
failure is a problem, and so is a store that does not verify afterwards, or has unreached files.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from imagewriter import ImageSpec, docker_archive, oci_archive, oci_layout
from storing import checked, layer, load, save

from fusemount.errors import ImageInUse, ImageNotFound
from fusemount.imagename import parse_name
from fusemount.store import Store
from fusemount.store.removal import prune, remove
from fusemount.store.usage import usage

_TAGS = [f"t{n}:1" for n in range(5)]


@dataclass
class Stress:
    directory: Path
    seed: int

    def __post_init__(self) -> None:
        """Makes archives that share layers, in several compressions."""
        base, texts = layer("base", 40_000), ["one", "two"]
        self.root, here = self.directory / "root", self.directory
        Store(self.root, create=True)
        self.archives = [
            oci_archive(here / f"oci{n}", [base, layer(text)], tags=[f"t{n}:1"], compress=how)
            for n, (text, how) in enumerate(zip(texts, ("gzip", "none"), strict=True))
        ]
        self.archives.append(docker_archive(here / "docker", [base, layer("one")], tags=["t2:1"]))
        specs = [
            ImageSpec([base, layer(arch)], config={"architecture": arch}, compress="gzip")
            for arch in ("amd64", "arm64")
        ]
        self.archives.append(oci_layout(here / "multi", images=specs, nested="t3:1"))

    def run(self, processes: int, seconds: float) -> list[str]:
        deadline = time.monotonic() + seconds
        context = multiprocessing.get_context("fork")
        told: multiprocessing.SimpleQueue[list[str]] = context.SimpleQueue()
        workers = [
            context.Process(target=self._work, args=(number, deadline, told))
            for number in range(processes)
        ]
        for worker in workers:
            worker.start()
        problems = [line for _ in workers for line in told.get()]
        for worker in workers:
            worker.join(30)
        return problems + self._afterwards()

    def _work(
        self, number: int, deadline: float, told: multiprocessing.SimpleQueue[list[str]]
    ) -> None:
        random, problems = Random(f"{self.seed} {number}"), []
        store = Store(self.root)
        while time.monotonic() < deadline and len(problems) < 3:
            name = random.choice(list(_VERBS))
            try:
                _VERBS[name](self, store, random, number)
            except (ImageNotFound, ImageInUse):
                continue
            except BaseException as error:
                last = traceback.format_exception(error)[-3:]
                problems.append(f"process {number}, {name}: {''.join(last)}")
        told.put(problems)

    def _afterwards(self) -> list[str]:
        store = Store(self.root)
        problems = [f"before prune: {line}" for line in checked(store).mismatches]
        prune(store)
        report = checked(store)
        problems += report.mismatches + [f"left: {path}" for path in report.unreached]
        for directory in (store.layout.ingest, store.layout.leases):
            problems += [f"left: {directory.name}/{name}" for name in os.listdir(directory)]
        return problems

    # ---- verbs ----------------------------------------------------------------------------

    def load(self, store: Store, random: Random, number: int) -> None:
        for image in load(store, random.choice(self.archives)):
            assert image.entries

    def tag(self, store: Store, random: Random, number: int) -> None:
        store.tag(random.choice(_TAGS), parse_name(random.choice(_TAGS)))

    def rm(self, store: Store, random: Random, number: int) -> None:
        remove(store, random.choice(_TAGS))

    def prune(self, store: Store, random: Random, number: int) -> None:
        prune(store, everything=random.random() < 0.2)

    def ls(self, store: Store, random: Random, number: int) -> None:
        for image in store.images():
            assert image.summary.what in ("image", "index"), image.summary.error
        assert usage(store).blobs >= 0

    def verify(self, store: Store, random: Random, number: int) -> None:
        assert not (found := checked(store).mismatches), found

    def save(self, store: Store, random: Random, number: int) -> None:
        out = self.directory / f"out{number}"
        form = random.choice(["oci-archive", "oci"])
        try:
            save(store, random.choice(_TAGS), form, out)
        finally:
            shutil.rmtree(out) if out.is_dir() else out.unlink(missing_ok=True)

    def copy(self, store: Store, random: Random, number: int) -> None:
        """Saves an image and loads it again: an archive that was saved meanwhile is complete."""
        out = self.directory / f"copy{number}"
        try:
            save(store, random.choice(_TAGS), "oci-archive", out)
            load(store, out)
        finally:
            out.unlink(missing_ok=True)


_VERBS: dict[str, Callable[[Stress, Store, Random, int], None]] = {
    "load": Stress.load, "tag": Stress.tag, "rm": Stress.rm, "prune": Stress.prune,
    "ls": Stress.ls, "verify": Stress.verify, "save": Stress.save, "copy": Stress.copy,
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description="Random verbs of several processes on one store.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--processes", type=int, default=8)
    words = parser.parse_args()
    problems = Stress(words.directory, words.seed).run(words.processes, words.seconds)
    print("\n".join(problems))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
