"""Runs several processes at one store and signals one: none hangs, no blob is brought twice."""

from __future__ import annotations

import gzip
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hostile import Answer, Hostile, Request
from imagewriter import ImageSpec, docker_archive, oci_files
from mounted import Command
from servedimage import ServedImage, in_range
from storing import checked, clean, layer, load
from tarwriter import TarWriter
from transferring import pulled

from fusemount.digest import Digest
from fusemount.store import Store
from fusemount.store.removal import prune

PATIENCE = 30
SOON = 3.0  # seconds, on a busy machine
HALF = 1 << 20
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 143}


def noise(size: int, seed: int = 3) -> bytes:
    return TarWriter().file("noise", random.Random(seed).randbytes(size)).tar()


@pytest.fixture
def image(server: Hostile) -> ServedImage:
    spec = ImageSpec([layer("low"), noise(2 * HALF), layer("top")], tags=("t",))
    return ServedImage(server, oci_files([spec]), "a/b", "t")


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path / "dirs")


@pytest.fixture
def store(command: Command) -> Store:
    return Store(command.base / "root", create=True)


@dataclass
class Starter:
    """`imgmount *words` in the background; processes that run at the test's end are killed."""

    command: Command
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    def __call__(self, *words: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "fusemount", *words],
            env=self.command.environment, stdin=subprocess.DEVNULL, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self.processes.append(process)
        return process

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()


@pytest.fixture
def begin(command: Command) -> Iterator[Starter]:
    starter = Starter(command)
    yield starter
    starter.end()


def until(what: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.005)


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def ends(process: subprocess.Popen[str], number: signal.Signals) -> float:
    """Sends the signal.  The seconds until the process ended by it, without output."""
    sent = time.monotonic()
    process.send_signal(number)
    try:
        out, err = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise AssertionError("it goes on") from None
    seconds = time.monotonic() - sent
    assert process.returncode == CODES[number], err
    assert "Traceback" not in err and "bug" not in err and "Status" not in out
    return seconds


@pytest.mark.parametrize("number", CODES)
def test_a_signal_during_a_layer(
    begin: Starter, store: Store, server: Hostile, image: ServedImage, number: signal.Signals
) -> None:
    """It ends at once, also while no bytes come; the part stays for the next pull."""
    digest = Digest(image.layers[1])
    server.on(image.blob(digest), in_range(image.bytes_of(digest), stall=HALF))
    process = begin("pull", image.name)
    part = store.layout.part(digest)
    until(lambda: size_of(part) >= HALF // 2)
    assert ends(process, number) < SOON
    had = part.stat().st_size
    assert had >= HALF // 2 and not checked(store).mismatches and not store.images()
    server.requests.clear()
    image.serve()
    pulled(store, image.name)
    assert image.asked(digest) == [had]
    clean(store, images=1)


@pytest.mark.parametrize("what", ["manifest", "config"])
def test_a_signal_before_that(
    begin: Starter, store: Store, server: Hostile, image: ServedImage, what: str
) -> None:
    heard = threading.Event()
    body = image.bytes_of(image.digest if what == "manifest" else image.config)

    def silent(_: Request) -> Answer:  # of the right length: a wrong one is an error at once
        heard.set()
        return Answer(200, body, stall=0)

    path = image.manifest if what == "manifest" else image.blob(image.config)
    server.on(path, silent)
    process = begin("pull", image.name)
    assert heard.wait(PATIENCE)
    assert ends(process, signal.SIGINT) < SOON
    prune(store)
    clean(store, images=0)


def test_a_signal_while_much_is_unpacked(begin: Starter, store: Store, server: Hostile) -> None:
    """Gigabytes of zeros in some megabytes: the process computes and waits for no byte."""
    member = gzip.compress(bytes(64 << 20), 1)
    header = bytearray(TarWriter().file("zeros", b"").tar()[:512])
    header[124:136] = b"%011o\0" % (64 * 64 << 20)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    packed = gzip.compress(bytes(header)) + 64 * member + gzip.compress(bytes(1024))
    spec = ImageSpec([layer("x")], tags=("t",), compress="gzip")
    image = ServedImage(server, replaced_layer(oci_files([spec]), packed), "a", "t")
    process = begin("pull", image.name)
    part = store.layout.part(Digest(image.layers[0]))
    until(lambda: size_of(part) > 1 << 18)
    assert ends(process, signal.SIGTERM) < SOON
    assert not store.images()


def replaced_layer(files: dict[str, object], blob: bytes) -> dict[str, object]:
    """An image of one layer with another blob, whose diff_id is wrong."""
    index = json.loads(files["index.json"])  # type: ignore[arg-type]
    name = "blobs/" + index["manifests"][0]["digest"].replace(":", "/")
    manifest = json.loads(files[name])  # type: ignore[arg-type]
    manifest["layers"][0] |= {"digest": Digest.of(blob), "size": len(blob)}
    data = json.dumps(manifest).encode()
    index["manifests"][0] |= {"digest": Digest.of(data), "size": len(data)}
    files["index.json"] = json.dumps(index).encode()
    for each in (data, blob):
        files["blobs/sha256/" + Digest.of(each).hex] = each
    return files


def test_a_signal_during_a_push(
    begin: Starter, store: Store, server: Hostile, tmp_path: Path
) -> None:
    """While the registry does not answer, and while a layer is compressed."""
    load(store, docker_archive(tmp_path / "a.tar", [noise(40 << 20), layer("x")], tags=["a:1"]))
    heard = threading.Event()

    def silent(_: Request) -> Answer:
        heard.set()
        return Answer(200, b"x" * 100, stall=0)

    server.on("POST /v2/a/blobs/uploads/", silent)
    process = begin("push", "a:1", f"{server.domain}/a:1")
    until(lambda: any(p.stat().st_size > 1 << 20 for p in store.layout.ingest.iterdir()))
    assert ends(process, signal.SIGINT) < SOON
    heard.clear()
    process = begin("push", "--compress", "none", "a:1", f"{server.domain}/a:1")
    assert heard.wait(PATIENCE)
    assert ends(process, signal.SIGTERM) < SOON
    clean(store, images=1)
    assert not list(store.layout.ingest.iterdir()) and not list(store.layout.leases.iterdir())


def test_a_signal_during_a_copy(
    begin: Starter, command: Command, server: Hostile, image: ServedImage, tmp_path: Path
) -> None:
    """The store that was made for the copy is removed, and the target has nothing."""
    digest = image.layers[1]
    server.on(image.blob(digest), in_range(image.bytes_of(digest), stall=HALF))
    process = begin("copy", f"docker://{image.name}", f"oci-archive:{tmp_path}/out.tar:x:1")
    cache = command.base / "cache"
    until(lambda: any(size_of(part) >= HALF // 2 for part in cache.glob("copy-*/ingest/*")))
    assert ends(process, signal.SIGTERM) < SOON
    assert not list(cache.glob("copy-*")) and not (tmp_path / "out.tar").exists()


@contextmanager
def held_back(server: Hostile, image: ServedImage, digest: str) -> Iterator[threading.Event]:
    """The registry answers for that blob when the event is set."""
    go = threading.Event()
    answer = in_range(image.bytes_of(digest))

    def late(request: Request) -> Answer:
        assert go.wait(PATIENCE)
        return answer(request)

    server.on(image.blob(digest), late)
    try:
        yield go
    finally:
        go.set()


def test_two_pulls_share_a_download(
    begin: Starter, store: Store, server: Hostile, image: ServedImage
) -> None:
    digest = image.layers[1]
    with held_back(server, image, digest) as go:
        two = [begin("pull", image.name) for _ in range(2)]
        manifest = image.manifest.removeprefix("GET ")
        until(lambda: [r.path for r in list(server.requests)].count(manifest) == 2)
        until(lambda: len(image.asked(digest)) == 1)
        until(lambda: len(list(store.layout.leases.iterdir())) == 2)
        go.set()
        outputs = [process.communicate(timeout=PATIENCE) for process in two]
    assert [process.returncode for process in two] == [0, 0], outputs
    for each in image.layers:
        assert len(image.asked(each)) == 1
        output = sorted(out.split(f"{each[7:19]}: ")[1].split("\n")[0] for out, _ in outputs)
        assert output == ["Already exists", "Pull complete"]
    clean(store, images=1)


def test_who_waits_hears_a_signal_and_takes_over(
    begin: Starter, store: Store, server: Hostile, image: ServedImage
) -> None:
    """The first process is killed; of the two that wait, one gets a signal, the other goes on."""
    digest = image.layers[1]
    data = image.bytes_of(digest)
    server.on(image.blob(digest), in_range(data, stall=HALF), in_range(data))
    first = begin("pull", image.name)
    part = store.layout.part(Digest(digest))
    until(lambda: size_of(part) >= HALF // 2)
    waiting = [begin("pull", image.name) for _ in range(2)]
    until(lambda: len(list(store.layout.leases.iterdir())) == 3)
    assert ends(waiting[0], signal.SIGINT) < SOON
    had = part.stat().st_size
    first.kill()
    first.communicate()
    err = waiting[1].communicate(timeout=PATIENCE)[1]
    assert waiting[1].returncode == 0, err
    assert image.asked(digest) == [0, had]
    prune(store)
    clean(store, images=1)
    assert not list(store.layout.leases.iterdir())


REMOVER = """
import sys
from pathlib import Path
from fusemount.errors import ImgmountError
from fusemount.store import Store
from fusemount.store.removal import prune, remove
store = Store(Path(sys.argv[1]))
print("ready", flush=True)
while True:
    for name in sys.argv[2:]:
        try:
            remove(store, name)
        except ImgmountError as error:
            if error.exit_code != 3:
                raise
    prune(store, everything=True)
"""


def test_a_pull_beside_removals(store: Store, server: Hostile) -> None:
    """Whatever is removed meanwhile, each pull brings its image or finds it."""
    shared = noise(1 << 16)
    images = [
        ServedImage(server, oci_files([ImageSpec([shared, layer(n)], tags=("t",))]), n, "t")
        for n in ("a", "b")
    ]
    names = [image.name for image in images]
    with subprocess.Popen(
        [sys.executable, "-c", REMOVER, store.root, *names],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as remover:  # fmt: skip
        assert remover.stdout and remover.stdout.readline() == "ready\n"
        try:
            for i in range(20):
                came = pulled(store, names[i % 2])
                assert came.pulled.digest == images[i % 2].digest
        finally:
            alive = remover.poll() is None
            remover.kill()
            output = remover.communicate()[1]
    assert alive, output
    assert not checked(store).mismatches
    pulled(store, names[0])
    assert not checked(store).mismatches
    prune(store)
    clean(store)
    assert os.listdir(store.layout.leases) == []
