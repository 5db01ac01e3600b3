"""The works on a mount.  A work names its image and its measures, and runs on a new mount.

Law: times come from the walker (walker.c) and from fio, never from Python.  No code here depends on
the contestant.

"First" means the first time since this mount was made: the mount's own caches are empty, and the
page cache of the files below it (archive, unpacked files) is warm.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import mounting
from benchmarks.contestants import Contestant
from benchmarks.debian import ADDED, IN_CHROOT
from benchmarks.images import MIB, Image, Sizes
from benchmarks.mounting import Place
from benchmarks.tools import Failure, Tools, output

REPEATED = 5
RANDOM_READS = 32_768
FIRST_LS = {"hundred-thousand": "100,000", "million": "1,000,000"}


@dataclass(frozen=True)
class Found:
    """The result of one visit: the seconds of each measure, the daemon's peak memory in bytes (0:
    there is no daemon), the number of nodes besides the image's, and what was taken on disk as a
    share of something (by measure)."""

    seconds: dict[str, float]
    memory: int = 0
    made: int = 0
    shares: dict[str, float] = field(default_factory=dict)


class Visit:
    """A mount that a work runs on; `timed` keeps the figures."""

    def __init__(
        self, tools: Tools, sizes: Sizes, at: Path, untar: Path | None, timeout: float
    ) -> None:
        self.sizes, self.at, self.untar = sizes, at, untar
        self.seconds: dict[str, float] = {}
        self._walker, self._timeout = tools.walker, timeout

    def timed(self, measure: str, *words: str | Path | int, times: int = 1) -> None:
        self.seconds[measure] = self.walk(*words) / times

    def walk(self, *words: str | Path | int, root: Path | None = None) -> float:
        """Runs the walker; its seconds. root: the commands of `run` run in a chroot of it."""
        printed = self._output([self._walker, *map(str, words)], IN_CHROOT if root else None)
        return float(printed.split()[0])

    def in_chroot(self, *command: str, repeated: int = 1) -> float:
        words: list[str | Path] = []
        for _ in range(repeated):
            words += [*(["--"] if words else []), "chroot", self.at, *command]
        return self.walk("run", *words, root=self.at) / repeated

    def fio(self, measure: str, file: str, *options: str) -> None:
        """Runs fio; times the job by fio's own clock. fio does not empty the page cache before."""
        printed = self._output(
            ["fio", "--name=job", "--output-format=json", "--invalidate=0", "--ioengine=psync",
             f"--filename={self.at / file}", *options], None,
        )  # fmt: skip
        job = json.loads(printed[printed.index("{") :])["jobs"][0]
        if job["error"]:
            raise Failure(f"fio: error {job['error']}")
        self.seconds[measure] = (job["read"]["runtime"] + job["write"]["runtime"]) / 1000

    def _output(self, command: list[str | Path], environment: dict[str, str] | None) -> str:
        return output(
            command, self._timeout, environment=environment,
            on_timeout=lambda: mounting.kill_servers(self.at),
        )  # fmt: skip


@dataclass(frozen=True)
class MountWork:
    """In one visit: mounts, runs the work, notes the memory, unmounts."""

    name: str
    image: str
    do: Callable[[Visit], None]
    writes: bool = False
    changes: bool = False
    """Changes files of the image, so that a plain directory must be a copy."""
    makes: Callable[[Sizes], int] = lambda sizes: 0
    """About how many nodes the work makes."""

    def takes(self, contestant: Contestant) -> bool:
        return contestant.mounts and (contestant.writable or not self.writes)

    def visit(self, contestant: Contestant, bench: Bench) -> Found:
        image = bench.images[self.image]
        untar = bench.images["untar"].tar if self.name == "untar" else None
        with bench.place(contestant.name) as place:
            contestant.arrange(image, place, self.changes)
            os.sync()  # so that earlier writes are not in this visit's time
            with contestant.mounted(image, place) as at:
                visit = Visit(bench.tools, bench.sizes, at, untar, bench.timeout)
                self.do(visit)
                memory = mounting.peak_memory(mounting.serving(at))
        return Found(visit.seconds, memory, self.makes(bench.sizes))


@dataclass(frozen=True)
class FirstLs:
    """Times from the start of the mount command to the end of an `ls` of the mount's root."""

    name: str
    image: str

    def takes(self, contestant: Contestant) -> bool:
        return contestant.mounts and (not contestant.unpacks or self.image != "million")

    def visit(self, contestant: Contestant, bench: Bench) -> Found:
        image = bench.images[self.image]
        with bench.place(contestant.name) as place:
            os.sync()
            command = contestant.command(image, place)
            printed = output(
                [bench.tools.walker, "run", *command, "--", "ls", place.at], bench.timeout,
                environment=contestant.environment, on_timeout=lambda: _kill(place),
            )  # fmt: skip
            if not any(place.at.iterdir()):
                raise Failure(f"{command[0]} returned before anything was mounted")
            memory = mounting.peak_memory(mounting.serving(place.at))
        measure = f"mount to first ls, {FIRST_LS[self.image]} entries"
        return Found({measure: float(printed.split()[0])}, memory)


def _kill(place: Place) -> None:
    mounting.kill_servers(place.at)


@dataclass(frozen=True)
class Bench:
    """The settings and tools of every visit."""

    base: Path
    tools: Tools
    images: Mapping[str, Image]
    sizes: Sizes
    timeout: float

    @contextmanager
    def place(self, contestant: str) -> Iterator[Place]:
        with mounting.place(self.base / "visits" / contestant) as place:
            yield place


def stat_walk(v: Visit) -> None:
    v.timed("stat walk, first", "stat", v.at)
    v.walk("stat", v.at)
    v.timed("stat walk, warm", "stat", v.at)


def read_walk(v: Visit) -> None:
    for turn in ("first", "second", "third"):
        v.timed(f"read-all walk, {turn}", "read", v.at)


def read_walk_fstat(v: Visit) -> None:
    for turn in ("first", "second", "third"):
        v.timed(f"read-all walk with fstat, {turn}", "read-fstat", v.at)


def sequential_reads(v: Visit) -> None:
    for turn in ("first", "warm"):
        v.fio(f"sequential read, {turn}", "large", "--readonly", "--rw=read", "--bs=128k")


def random_reads(v: Visit) -> None:
    """Reads the same offsets both times: fio's generator has a fixed seed."""
    size = min(RANDOM_READS * 4096, v.sizes.large_mib * MIB)
    for turn in ("first", "warm"):
        v.fio(f"random 4 KiB reads, {turn}", "large", "--readonly", "--rw=randread", "--bs=4k",
              f"--io_size={size}", "--randseed=7")  # fmt: skip


def small_files(v: Visit) -> None:
    v.timed("create small files", "create", v.at / "made", v.sizes.created, 4096)
    v.timed("read small files", "read", v.at / "made")
    v.timed("rm -rf of small files", "run", "rm", "-rf", v.at / "made")


def write(v: Visit) -> None:
    v.timed("write + fsync", "write", v.at / "made", v.sizes.written_mib)
    v.timed("re-read", "reread", v.at / "made")


def random_writes(v: Visit) -> None:
    """Does as many writes as the file has blocks, and one fsync at the end."""
    v.walk("write", v.at / "made", v.sizes.random_mib)
    v.fio("random 4 KiB writes + fsync", "made", "--rw=randwrite", "--bs=4k", "--end_fsync=1",
          "--randseed=7")  # fmt: skip


def fsync_loop(v: Visit) -> None:
    v.timed("fsync loop", "fsyncs", v.at / "made", v.sizes.fsyncs)


def untar(v: Visit) -> None:
    assert v.untar
    made = v.at / "made"
    made.mkdir()
    v.timed("untar", "run", "tar", "-xf", v.untar, "-C", made)
    v.timed("rm -rf of what was untarred", "run", "rm", "-rf", made)


def apt_install(v: Visit) -> None:
    with mounting.machine_bound(v.at):
        v.seconds["apt-get install"] = v.in_chroot(
            "apt-get", "install", "-y", "-qq", "--no-install-recommends", *ADDED
        )


def numpy(v: Visit) -> None:
    command = ("python3", "-c", "import numpy")
    with mounting.machine_bound(v.at):
        v.seconds["import numpy, first"] = v.in_chroot(*command)
        v.in_chroot(*command, repeated=2)
        v.seconds["import numpy, warm"] = v.in_chroot(*command, repeated=REPEATED)


def gcc_build(v: Visit) -> None:
    with mounting.machine_bound(v.at):
        v.seconds["gcc build"] = v.in_chroot("make", "-s", "-j2", "-C", "/srv/build")


def chmod_large(v: Visit) -> None:
    v.timed("chmod of a large file", "chmod", v.at / "large")


def byte_large(v: Visit) -> None:
    v.timed("one byte into a large file", "byte", v.at / "large")


Work = MountWork | FirstLs

WORKS: list[Work] = [
    FirstLs("first-ls", "hundred-thousand"),
    FirstLs("first-ls-million", "million"),
    MountWork("stat-walk", "tree", stat_walk),
    MountWork("read-walk", "tree", read_walk),
    MountWork("read-walk-fstat", "tree", read_walk_fstat),
    MountWork("sequential-reads", "large", sequential_reads),
    MountWork("random-reads", "large", random_reads),
    MountWork(
        "small-files", "small", small_files, writes=True, changes=True, makes=lambda s: s.created
    ),
    MountWork("write", "small", write, writes=True, changes=True),
    MountWork("random-writes", "small", random_writes, writes=True, changes=True),
    MountWork("fsync-loop", "small", fsync_loop, writes=True, changes=True),
    MountWork(
        "untar", "small", untar, writes=True, changes=True, makes=lambda s: s.untar_files * 11 // 10
    ),
    MountWork("apt-install", "debian", apt_install, writes=True, changes=True),
    MountWork("numpy", "debian", numpy),
    MountWork("gcc-build", "debian", gcc_build, writes=True, changes=True),
    MountWork("chmod-large", "large", chmod_large, writes=True, changes=True),
    MountWork("byte-large", "large", byte_large, writes=True, changes=True),
]
