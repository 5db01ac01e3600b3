"""The works on the image store: an image of five layers comes from a registry on loopback or from
an archive, compared with skopeo and podman; and verbs on a store of 1,000 images.

Law: a visit has a store, layout or storage of its own, all on one file system; a pull or a load
begins with an empty one.  Timed is one process, from before its fork to after its exit; the peak
memory is that process's.  The registry is started before, and no time includes that.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.contestants import Contestant
from benchmarks.images import Image, header, root_like
from benchmarks.mounting import Place
from benchmarks.tools import TOP, Command, Failure, output, without_imgmount
from benchmarks.works import Bench, Found

LAYERS = 5
NAME = "bench/five:1"
REF = "five"
TYPE = "application/vnd.oci.image."


class Program(Contestant):
    """A program that keeps images and mounts nothing."""

    mounts = False
    writable = False

    def __init__(self, name: str) -> None:
        self.name = name

    def command(self, image: Image, place: Place) -> Command:
        raise Failure(f"{self.name} mounts nothing")


@dataclass(frozen=True)
class StoreWork:
    """name: pull, load or thousand."""

    name: str
    image: str = "small"

    def takes(self, contestant: Contestant) -> bool:
        who = {"pull": ("imgmount", "skopeo", "podman"), "load": ("imgmount", "podman")}
        return contestant.name in who.get(self.name, ("imgmount",))

    def visit(self, contestant: Contestant, bench: Bench) -> Found:
        base = bench.base / "stores"
        if self.name == "thousand":
            return _thousand(base / f"{bench.sizes.stored}", bench)
        layout = _five_layers(base / f"five-{bench.sizes.layer_mib}", bench.sizes.layer_mib)
        place = base / "visits" / contestant.name
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        try:
            if self.name == "pull":
                with registry(base / f"registry-{bench.sizes.layer_mib}", layout) as domain:
                    os.sync()
                    seconds, memory = measured(_pulling(contestant.name, domain, place), bench)
                return Found({"pull of five layers": seconds}, memory)
            archive = _archive(layout.with_suffix(".tar"), layout)
            os.sync()
            seconds, memory = measured(_loading(contestant.name, archive, place), bench)
            return Found({"load of a docker-archive": seconds}, memory)
        finally:
            subprocess.run(["podman", *podman(place), "rmi", "-af"], capture_output=True)
            shutil.rmtree(place, ignore_errors=True)


def _pulling(name: str, domain: str, place: Path) -> Command:
    source = f"{domain}/{NAME}"
    if name == "skopeo":
        return ["skopeo", "copy", "-q", "--src-tls-verify=false", f"docker://{source}",
                f"oci:{place}/layout:five"]  # fmt: skip
    if name == "podman":
        return ["podman", *podman(place), "pull", "-q", "--tls-verify=false", source]
    return [*_imgmount(place), "pull", "-q", source]


def _loading(name: str, archive: Path, place: Path) -> Command:
    if name == "podman":
        return ["podman", *podman(place), "load", "-q", "-i", archive]
    return [*_imgmount(place), "load", "-q", "-i", archive]


def _imgmount(place: Path) -> list[str | Path]:
    return [sys.executable, "-m", "fusemount", f"--root={place}/root"]


def podman(place: Path) -> list[str | Path]:
    return ["--root", place / "storage", "--runroot", place / "run", "--storage-driver", "overlay"]


def measured(
    command: Command, bench: Bench, environment: dict[str, str] | None = None
) -> tuple[float, int]:
    """Runs a process that must succeed; its seconds, and the peak memory in bytes of it or of the
    greatest of its children.  Raises Failure."""
    environment = environment or without_imgmount() | {"PYTHONPATH": str(TOP)}
    log = bench.base / "log"
    with open(log, "wb") as out:
        start = time.perf_counter()
        child = subprocess.Popen(
            list(map(str, command)), env=environment, cwd="/", stdout=out, stderr=out,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        _, status, used = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - start
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        logged = log.read_text(errors="replace").strip()[-600:]
        raise Failure(f"{' '.join(map(str, command))[:200]}: {logged}")
    return seconds, used.ru_maxrss * 1024


# ---- what is moved ----------------------------------------------------------------------------


def _five_layers(layout: Path, layer_mib: int) -> Path:
    """An OCI layout with gzip layers of about half their uncompressed size; kept between runs."""
    if (layout / "index.json").exists():
        return layout
    shutil.rmtree(layout, ignore_errors=True)
    (layout / "blobs/sha256").mkdir(parents=True)
    descriptors, diff_ids = [], []
    for number in range(LAYERS):
        described, diff_id = _packed(layout, number, layer_mib << 20)
        descriptors.append(described)
        diff_ids.append(diff_id)
    write_layout(layout, descriptors, diff_ids)
    return layout


def write_layout(layout: Path, layers: list[dict[str, str | int]], diff_ids: list[str]) -> None:
    """Makes a directory with the layers' blobs an OCI layout of one image, whose name is REF."""
    config = {"architecture": "amd64", "os": "linux", "config": {},
              "rootfs": {"type": "layers", "diff_ids": diff_ids}}  # fmt: skip
    described = _blob(layout, json.dumps(config).encode(), TYPE + "config.v1+json")
    kind = TYPE + "manifest.v1+json"
    manifest = {"schemaVersion": 2, "mediaType": kind, "config": described, "layers": layers}
    top = _blob(layout, json.dumps(manifest).encode(), kind)
    top["annotations"] = {"org.opencontainers.image.ref.name": REF}  # type: ignore[assignment]
    (layout / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [top]}))


def _blob(layout: Path, data: bytes, kind: str) -> dict[str, str | int]:
    digest = hashlib.sha256(data).hexdigest()
    (layout / "blobs/sha256" / digest).write_bytes(data)
    return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(data)}


def _packed(layout: Path, number: int, size: int) -> tuple[dict[str, str | int], str]:
    """Writes a compressed layer; its descriptor and diff_id.

    It works in small pieces, because getrusage(2) keeps the peak over exec: this process' own peak
    would count as that of its children.
    """
    part = layout / "part"
    plain, packed, length = hashlib.sha256(), hashlib.sha256(), 0
    packing = zlib.compressobj(6, zlib.DEFLATED, 31)
    with open(part, "wb") as out:
        for piece in _layer(number, size):
            plain.update(piece)
            data = packing.compress(piece)
            packed.update(data)
            length += out.write(data)
        data = packing.flush()
        packed.update(data)
        length += out.write(data)
    part.rename(layout / "blobs/sha256" / packed.hexdigest())
    kind = TYPE + "layer.v1.tar+gzip"
    described: dict[str, str | int] = {
        "mediaType": kind, "digest": f"sha256:{packed.hexdigest()}", "size": length,
    }  # fmt: skip
    return described, f"sha256:{plain.hexdigest()}"


def _layer(number: int, size: int) -> Iterator[bytes]:
    """A tar of files as in a root file system; every second piece of a file is text, the others are
    noise."""
    noise = hashlib.shake_128(b"%d" % number).digest(1 << 20)
    text = noise[: 1 << 19].hex().encode()
    for count, (name, kind, length) in enumerate(root_like(max(size // 30_000, 10), size)):
        yield header(f"layer{number}/{name}", kind, length)
        left, at = length, count * 4099 % (1 << 19)
        while left > 0:
            piece = (text, noise)[count % 2][at : at + left]
            yield piece
            left, at = left - len(piece), 0
            count += 1
        yield bytes(-length % 512)
    yield bytes(1024)


def _archive(path: Path, layout: Path) -> Path:
    """The layout's image as an archive of `docker save`'s form; kept between runs."""
    if not path.exists():
        part = path.with_suffix(".part")
        part.unlink(missing_ok=True)
        output(
            ["skopeo", "copy", "-q", f"oci:{layout}:{REF}", f"docker-archive:{part}:{NAME}"], 600
        )
        part.rename(path)
    return path


@contextmanager
def registry(base: Path, layout: Path) -> Iterator[str]:
    """Runs Debian's docker-registry with the layout's image, whose name there is NAME."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        domain = f"127.0.0.1:{s.getsockname()[1]}"
    base.mkdir(parents=True, exist_ok=True)
    config = base / "config.yml"
    config.write_text(
        f"version: 0.1\nlog: {{level: error}}\nhttp: {{addr: '{domain}'}}\n"
        f"storage: {{filesystem: {{rootdirectory: '{base}/data'}}}}\n"
    )
    server = subprocess.Popen(["docker-registry", "serve", config], stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL)  # fmt: skip
    try:
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", int(domain.rpartition(":")[2]))).close()
                break
            except OSError:
                time.sleep(0.05)
        output(["skopeo", "copy", "-q", "--dest-tls-verify=false", f"oci:{layout}:{REF}",
                f"docker://{domain}/{NAME}"], 600)  # fmt: skip
        yield domain
    finally:
        server.terminate()
        server.wait()


# ---- a thousand images ------------------------------------------------------------------------

_FILL = """
import sys
from pathlib import Path
from fusemount.imagename import ImageName
from fusemount.store import Store
from fusemount.transfer.importing import ImportOptions, import_tar
from fusemount.transfer.reports import SilentTransfers
import io, tarfile
store = Store(Path(sys.argv[1]), create=True)
for i in range(int(sys.argv[2])):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        member = tarfile.TarInfo(f"file{i}")
        member.size = 10
        tar.addfile(member, io.BytesIO(b"%010d" % i))
    data.seek(0)
    name = ImageName("docker.io", f"bench/image{i}", "1")
    import_tar(store, data.read, "x", name, ImportOptions(10**18 + i * 10**9), SilentTransfers())
"""


def _thousand(base: Path, bench: Bench) -> Found:
    """Times ls, rm of 1, 10 and 100 images, and prune of all others, on a copy of a store."""
    kept, root, timeout = base / "kept", base / "copy", 10 * bench.timeout
    images = bench.sizes.stored
    environment = without_imgmount() | {"PYTHONPATH": str(TOP)}
    if not (kept / "index.json").exists():
        shutil.rmtree(kept, ignore_errors=True)
        output([sys.executable, "-c", _FILL, kept, str(images)], timeout, environment=environment,
               cwd=Path("/"))  # fmt: skip
    shutil.rmtree(root, ignore_errors=True)
    output(["cp", "-a", kept, root], timeout)
    found = {}

    def timed(measure: str, *words: str) -> None:
        command = [sys.executable, "-m", "fusemount", f"--root={root}", *words]
        start = time.perf_counter()
        output(command, timeout, environment=environment, cwd=Path("/"))
        found[measure] = time.perf_counter() - start

    try:
        timed("ls, first", "ls", "-q")
        timed(f"ls of {images:,} images", "ls")
        timed("rm of 1 image", "rm", "bench/image0:1")
        timed("rm of 10 images", "rm", *(f"bench/image{i}:1" for i in range(1, 11)))
        timed("rm of 100 images", "rm", *(f"bench/image{i}:1" for i in range(11, 111)))
        timed(f"prune of {images - 111} images", "prune", "-af")
    finally:
        shutil.rmtree(root, ignore_errors=True)
    return Found(found, 0)


STORE_WORKS = [StoreWork("pull"), StoreWork("load"), StoreWork("thousand")]
