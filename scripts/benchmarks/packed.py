"""The works on compressed layers: imgmount reads them in place; others unpack them first, or read a
compressed tar by an index.

Law: each visit of imgmount begins with no cache and no store, and "first mount" is one of an image
of which nothing is known.  Blobs are in the page cache.  Peers that read by an index have it
already, as imgmount has its own after the first mount.

The contestant `merely` is the least that anybody must do: the same CPUs decompress each layer and
hash both what is stored and what comes out (igzip or zstd, openssl); for works that only read, one
CPU decompresses once.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks import mounting
from benchmarks.contestants import Contestant, Imgmount
from benchmarks.mounting import Place
from benchmarks.packedimages import FORMS, LARGE_AT, blobs, layout
from benchmarks.storing import NAME, REF, measured, podman, registry
from benchmarks.tools import Command, Failure, output
from benchmarks.works import Bench, Found, Visit

UNPACK = {"plain": "cat", "gzip": "igzip -dc", "zstd": "zstd -dqc", "zstd in frames": "zstd -dqc"}
PACKED = [form for form in FORMS if form != "plain"]

MERELY = """
set -o pipefail; unpack=$1; shift
for blob; do
    { $unpack "$blob" | openssl sha256; } & jobs+=($!)
    openssl sha256 "$blob" & jobs+=($!)
done
for job in ${jobs[@]}; do wait $job || exit; done"""
ONCE = 'set -e; unpack=$1; shift; for blob; do $unpack "$blob"; done >/dev/null'
MOUNT_LS = 'at=$1; shift; "$@" && exec ls "$at"'

READ_BYTES, SLOT_BYTES, READER_SECONDS = 64 << 10, 3 << 20, 10
READER = """
import json, os, random, sys, time
kind, path, index, start, size, length, slot, seconds = sys.argv[1:4] + list(map(int, sys.argv[4:]))
if kind == "file":
    fd = os.open(path, os.O_RDONLY)
    read = lambda at: os.pread(fd, length, at)
else:
    if kind == "rapidgzip":
        import rapidgzip
        opened = lambda: rapidgzip.open(path, parallelization=os.cpu_count())
        build = lambda file: file.block_offsets()
    else:
        import indexed_gzip
        opened = lambda: indexed_gzip.IndexedGzipFile(path)
        build = lambda file: file.build_full_index()
    if not os.path.exists(index):
        with opened() as file:
            build(file)
            file.export_index(index + ".part")
        os.rename(index + ".part", index)
    file = opened()
    file.import_index(index)
    def read(at):
        file.seek(start + at)
        return file.read(length)
numbers = random.Random(7)
places = [at + 4096 * numbers.randrange((slot - length) // 4096 + 1)
          for at in range(0, size - slot, slot)]
numbers.shuffle(places)
took, end = [], time.perf_counter() + seconds
for at in places:
    begin = time.perf_counter()
    got = read(at)
    took.append(time.perf_counter() - begin)
    assert len(got) == length
    if time.perf_counter() > end:
        break
print(json.dumps(took))
if kind != "file":
    file.close()
"""
"""Reads at one random place of each SLOT_BYTES, in random order: a place whose bytes were not read
ahead, nor lie between a place read before and its access point.  After `seconds` it is done."""


@dataclass
class Ours:
    """imgmount in one visit.  No time includes `forget`."""

    contestant: Imgmount
    bench: Bench
    place: Place
    memory: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    shares: dict[str, float] = field(default_factory=dict)

    @property
    def cache(self) -> Path:
        return self.place.base / "cache"

    @property
    def root(self) -> str:
        return f"--root={self.place.base / 'store'}"

    def forget(self) -> None:
        for directory in (self.cache, self.place.base / "store"):
            shutil.rmtree(directory, ignore_errors=True)
        os.sync()

    def run(self, measure: str, command: Command) -> None:
        """Times a command; its memory counts."""
        environment = self.contestant.environment or {}
        self.seconds[measure], memory = measured(
            command, self.bench, environment | {"IMGMOUNT_CACHE_DIR": str(self.cache)}
        )
        self.memory = max(self.memory, memory)

    def verb(self, measure: str, *words: str | Path) -> None:
        self.run(measure, [*self.contestant.program, self.root, *words])

    @contextmanager
    def mounted(self, measure: str, image: str) -> Iterator[Visit]:
        """Times from the start of the mount command to the end of an `ls` of the root."""
        at = self.place.at
        command = self.contestant.mounting(image, self.place, self.root)
        self.run(measure, ["sh", "-c", MOUNT_LS, "sh", at, *command])
        try:
            yield Visit(self.bench.tools, self.bench.sizes, at, None, self.bench.timeout)
            self.memory = max(self.memory, mounting.peak_memory(mounting.serving(at)))
        finally:
            mounting.unmount(at)

    def share(self, measure: str, image: Path) -> None:
        """Notes what the cache has besides the index of members, as a share of the blobs."""
        taken = sum(
            path.lstat().st_blocks * 512 for path in self.cache.rglob("*")
            if path.is_file() and path.parent.name != "index"
        )  # fmt: skip
        self.shares[measure] = taken / sum(blob.stat().st_size for blob in blobs(image))

    def found(self) -> Found:
        return Found(self.seconds, self.memory, shares=self.shares)


@dataclass(frozen=True)
class PackedWork:
    """ours: what imgmount does.  others: (contestant, form) -> the measure and its command, without
    a mount; or a function that takes all figures itself."""

    name: str
    ours: Callable[[Ours], None]
    others: dict[str, Callable[[Bench, Place], dict[str, float]]]
    nodes: int = 14_000
    """About how many the image has, at least."""
    image: str = "small"
    """Of no use here, but each work has one."""

    def takes(self, contestant: Contestant) -> bool:
        return isinstance(contestant, Imgmount) or contestant.name in self.others

    def visit(self, contestant: Contestant, bench: Bench) -> Found:
        with bench.place(contestant.name) as place:
            if not isinstance(contestant, Imgmount):
                return Found(self.others[contestant.name](bench, place))
            ours = Ours(contestant, bench, place)
            self.ours(ours)
            return replace(ours.found(), made=self.nodes)


def _commanded(
    measure: str, image: str, forms: list[str], command: Callable[[Path, str, Place], Command]
) -> Callable[[Bench, Place], dict[str, float]]:
    """What a program does that is one command for each form."""

    def visit(bench: Bench, place: Place) -> dict[str, float]:
        found = {}
        for form in forms:
            made = layout(bench, image, form)
            os.sync()
            found[f"{measure}, {form}"], _ = measured(command(made, form, place), bench)
        return found

    return visit


def _merely(made: Path, form: str, place: Place) -> Command:
    return ["bash", "-c", MERELY, "bash", UNPACK[form], *blobs(made)]


def _once(made: Path, form: str, place: Place) -> Command:
    return ["sh", "-c", ONCE, "sh", UNPACK[form], *blobs(made)]


# ---- mounting and bringing --------------------------------------------------------------------


def first(v: Ours) -> None:
    for form in FORMS:
        image = layout(v.bench, "python", form)
        v.forget()
        with v.mounted(f"first mount to ls, {form}", f"oci:{image}") as visit:
            v.share(f"disk after first mount, {form}", image)
            _import_numpy(v, visit, f"import numpy, {form}")
        with v.mounted(f"second mount to ls, {form}", f"oci:{image}") as visit:
            _import_numpy(v, visit, f"import numpy after second mount, {form}")


def _import_numpy(v: Ours, visit: Visit, measure: str) -> None:
    with mounting.machine_bound(visit.at):
        v.seconds[measure] = visit.in_chroot("python3", "-c", "import numpy")


def _umoci(made: Path, form: str, place: Place) -> Command:
    bundle = place.base / "bundle"
    return ["umoci", "unpack", "--image", f"{made}:{REF}", bundle]


def _podman_load(bench: Bench, place: Place) -> dict[str, float]:
    archive = place.base / "archive"
    output(["skopeo", "copy", "-q", f"oci:{layout(bench, 'python', 'gzip')}:{REF}",
            f"oci-archive:{archive}:{NAME}"], bench.timeout)  # fmt: skip
    os.sync()
    try:
        seconds, _ = measured(["podman", *podman(place.base), "load", "-q", "-i", archive], bench)
        return {"first mount to ls, gzip": seconds}
    finally:
        output(["podman", *podman(place.base), "rmi", "-af"], bench.timeout)


def known(v: Ours) -> None:
    """An image that the store has, of 100,000 entries and more: the first mount, and the second."""
    for form in FORMS:
        image = layout(v.bench, "entries", form)
        for verb, words in (("load", ["-q", image]), ("copy", ["-q", f"oci:{image}:{REF}", NAME])):
            v.forget()
            v.verb(f"{verb}, {form}", verb, *words)
            name = REF if verb == "load" else NAME
            for turn in ("first", "second"):
                with v.mounted(f"{turn} mount after {verb}, {form}", name):
                    pass


def pull(v: Ours) -> None:
    for form in ("gzip", "zstd"):
        image = layout(v.bench, "python", form)
        with registry(image.with_suffix(".registry"), image) as domain:
            v.forget()
            v.verb(f"pull, {form}", "pull", "-q", f"{domain}/{NAME}")
        with v.mounted(f"first mount after pull, {form}", f"{domain}/{NAME}"):
            pass


def _skopeo(bench: Bench, place: Place) -> dict[str, float]:
    found = {}
    for form in ("gzip", "zstd"):
        image, copied = layout(bench, "python", form), place.base / form
        with registry(image.with_suffix(".registry"), image) as domain:
            os.sync()
            found[f"pull, {form}"], _ = measured(
                ["skopeo", "copy", "-q", "--src-tls-verify=false", f"docker://{domain}/{NAME}",
                 f"oci:{copied}:{REF}"], bench,
            )  # fmt: skip
    return found


# ---- reading ----------------------------------------------------------------------------------


def walk(v: Ours) -> None:
    for form in FORMS:
        image = layout(v.bench, "python", form)
        v.forget()
        with v.mounted(f"mount before a walk, {form}", f"oci:{image}") as visit:
            v.seconds[f"first read-all walk, {form}"] = visit.walk("read", visit.at)


def stream(v: Ours) -> None:
    for form in FORMS:
        image = layout(v.bench, "large", form)
        v.forget()
        with v.mounted(f"mount before a stream, {form}", f"oci:{image}") as visit:
            v.seconds[f"one stream, {form}"] = visit.walk("reread", visit.at / "large")


def random(v: Ours) -> None:
    for form in PACKED:
        image = layout(v.bench, "large", form)
        v.forget()
        with v.mounted(f"mount before random reads, {form}", f"oci:{image}") as visit:
            v.seconds |= _reads(v.bench, form, "file", visit.at / "large")


def _reads(bench: Bench, form: str, kind: str, path: Path) -> dict[str, float]:
    """Median and 99th percentile of the seconds of one read. kind: see READER."""
    size = blobs(layout(bench, "large", "plain"))[0].stat().st_size - 3 * LARGE_AT
    index = bench.base / f"{kind}-{bench.sizes.packed_mib}.index"
    printed = output(
        [bench.tools.ratarmount() / "python", "-c", READER, kind, path, index,
         *map(str, (LARGE_AT, size, READ_BYTES, SLOT_BYTES, READER_SECONDS))], bench.timeout,
        on_timeout=lambda: mounting.kill_servers(path.parent),
    )  # fmt: skip
    took = sorted(json.loads(printed))
    return {
        f"random 64 KiB read, median, {form}": statistics.median(took),
        f"random 64 KiB read, 99th of 100, {form}": took[int(len(took) * 0.99)],
    }


def _by_index(kind: str) -> Callable[[Bench, Place], dict[str, float]]:
    def visit(bench: Bench, place: Place) -> dict[str, float]:
        return _reads(bench, "gzip", kind, blobs(layout(bench, "large", "gzip"))[0])

    return visit


@contextmanager
def _ratarmount(bench: Bench, place: Place, form: str, *options: str) -> Iterator[Path]:
    """Mounts the layer's blob with a kept index; its file `large`."""
    (blob,) = blobs(layout(bench, "large", form))
    index = bench.base / f"packed-{bench.sizes.packed_mib}" / f"{form}{''.join(options)}.sqlite"
    program: list[str | Path] = [bench.tools.ratarmount() / "ratarmount", *options]
    program += ["--index-file", index]
    if not index.exists():
        output([*program, "--no-mount", blob], bench.timeout)
    output([*program, blob, place.at], bench.timeout)
    mounting.wait_mounted(place.at)
    try:
        if not (place.at / "large").exists():
            raise Failure(f"ratarmount shows no file `large` of {form}")
        yield place.at / "large"
    finally:
        mounting.unmount(place.at)


def _ratarmount_random(bench: Bench, place: Place) -> dict[str, float]:
    found: dict[str, float] = {}
    for form in PACKED:
        with _ratarmount(bench, place, form) as large:
            found |= _reads(bench, form, "file", large)
    return found


def _ratarmount_stream(bench: Bench, place: Place) -> dict[str, float]:
    found = {}
    for form in PACKED:
        with _ratarmount(bench, place, form, "-P1") as large:
            visit = Visit(bench.tools, bench.sizes, place.at, None, bench.timeout)
            found[f"one stream, {form}"] = visit.walk("reread", large)
    return found


FIRST, PULLED = "first mount to ls", ["gzip", "zstd"]
PACKED_WORKS = [
    PackedWork("packed-first", first, {
        "umoci": _commanded(FIRST, "python", ["gzip"], _umoci),
        "podman": _podman_load,
        "merely": _commanded(FIRST, "python", PACKED, _merely),
    }),
    PackedWork("packed-known", known, {}, nodes=114_000),
    PackedWork("packed-pull", pull, {
        "skopeo": _skopeo, "merely": _commanded("pull", "python", PULLED, _merely),
    }),
    PackedWork("packed-walk", walk, {
        "merely": _commanded("first read-all walk", "python", PACKED, _once),
    }),
    PackedWork("packed-stream", stream, {
        "ratarmount": _ratarmount_stream,
        "merely": _commanded("one stream", "large", PACKED, _once),
    }, nodes=2),
    PackedWork("packed-random", random, {
        "ratarmount": _ratarmount_random, "rapidgzip": _by_index("rapidgzip"),
        "indexed_gzip": _by_index("indexed_gzip"),
    }, nodes=2),
]  # fmt: skip
PROGRAMS = ("umoci", "podman", "skopeo", "merely", "rapidgzip", "indexed_gzip")
"""The contestants that are no mounts."""
