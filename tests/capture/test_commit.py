"""`imgmount commit`: the image's contents, that they never vary, and that errors leave nothing."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from imagewriter import ImageSpec, docker_archive, oci_archive, oci_layout
from mounted import Command, mounted
from oracle import differences, dump_directory, run
from tarwriter import TarWriter

TIME = 1_400_000_000_123_456_789
EPOCH = 1_500_000_000


def layers() -> list[bytes]:
    low = TarWriter().dir(".", mtime_ns=TIME).dir("d", mtime_ns=TIME)
    low.file("d/a", b"lower a", mtime_ns=TIME).file("d/b", b"lower b", mtime_ns=TIME)
    low.file("one", b"linked", mtime_ns=TIME).hardlink("two", "one")
    return [low.tar(), TarWriter().file("d/c", b"c", mtime_ns=TIME).tar()]


@dataclass(frozen=True)
class Epoch(Command):
    """A command with SOURCE_DATE_EPOCH."""

    seconds: str = str(EPOCH)

    @property
    def environment(self) -> dict[str, str]:
        return super().environment | {"SOURCE_DATE_EPOCH": self.seconds}


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return oci_archive(tmp_path / "image.tar", layers(), compress="gzip")


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path / "dirs")


@pytest.fixture
def epoch(tmp_path: Path) -> Epoch:
    return Epoch(tmp_path / "dirs")


def change(root: Path) -> None:
    (root / "d/a").unlink()
    (root / "d/b").write_bytes(b"upper b")
    (root / "new").mkdir()
    (root / "new/file").write_bytes(b"n" * 10_000)
    os.chmod(root / "one", 0o600)


@pytest.fixture
def upper(command: Command, image: Path, tmp_path: Path) -> Path:
    """A kept upper with changes to the image."""
    with mounted(command, image, tmp_path / "mnt", "--upper", tmp_path / "upper") as at:
        change(at)
    return tmp_path / "upper"


@dataclass(frozen=True)
class Opened:
    """A committed archive, read by Python's tarfile and json."""

    files: dict[str, bytes]

    @classmethod
    def of(cls, path: Path) -> Opened:
        if path.is_dir():
            return cls({str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*")
                        if p.is_file()})  # fmt: skip
        with tarfile.open(path) as archive:
            return cls({m.name: archive.extractfile(m).read() for m in archive if m.isfile()})

    @property
    def manifest(self) -> dict:
        (entry,) = json.loads(self.files["index.json"])["manifests"]
        return json.loads(self.blob(entry["digest"]))

    def blob(self, digest: str) -> bytes:
        data = self.files["blobs/" + digest.replace(":", "/")]
        assert digest == "sha256:" + hashlib.sha256(data).hexdigest()
        return data

    @property
    def config(self) -> dict:
        return json.loads(self.blob(self.manifest["config"]["digest"]))


def listing(layer: bytes) -> list[str]:
    done = subprocess.run(["tar", "-t"], input=layer, capture_output=True, check=True)
    return done.stdout.decode().splitlines()


# ---- contents -----------------------------------------------------------------------------------


def test_lower_layers_are_carried_byte_by_byte(
    command: Command, image: Path, upper: Path, tmp_path: Path
) -> None:
    output = command("commit", upper, "t:1", "-o", tmp_path / "out.tar").stdout
    before, after = Opened.of(image), Opened.of(tmp_path / "out.tar")
    assert after.manifest["layers"][:2] == before.manifest["layers"]
    assert output == after.manifest["config"]["digest"] + "\n"
    *_, new = after.manifest["layers"]
    assert new["mediaType"] == "application/vnd.oci.image.layer.v1.tar+gzip"
    plain = gzip.decompress(after.blob(new["digest"]))
    assert after.config["rootfs"]["diff_ids"] == [
        *before.config["rootfs"]["diff_ids"], "sha256:" + hashlib.sha256(plain).hexdigest()
    ]  # fmt: skip
    assert listing(plain) == ["./", "d/", "d/.wh.a", "d/b", "new/", "new/file", "one", "two"]
    (docker,) = json.loads(after.files["manifest.json"])
    assert docker["RepoTags"] == ["t:1"] and len(docker["Layers"]) == 3
    assert all(name in after.files for name in [docker["Config"], *docker["Layers"]])


def test_docker_archive_of_an_oci_image(command: Command, upper: Path, tmp_path: Path) -> None:
    """Layers that are compressed in OCI are not in a docker-archive; the image ID is the same."""
    out = tmp_path / "out.tar"
    command("commit", upper, "t", "-o", f"docker-archive:{out}")
    files = Opened.of(out).files
    (entry,) = json.loads(files["manifest.json"])
    assert entry["RepoTags"] == ["t:latest"]
    diff_ids = json.loads(files[entry["Config"]])["rootfs"]["diff_ids"]
    assert ["sha256:" + hashlib.sha256(files[name]).hexdigest() for name in entry["Layers"]] == (
        diff_ids
    )
    assert files[entry["Layers"][0]] == layers()[0]


@pytest.mark.parametrize("how", ["gzip", "zstd", "none"])
def test_compress(command: Command, upper: Path, tmp_path: Path, how: str) -> None:
    command("commit", upper, "t", "-o", tmp_path / "out", "--compress", how)
    *_, new = Opened.of(tmp_path / "out").manifest["layers"]
    suffix = "" if how == "none" else f"+{how}"
    assert new["mediaType"] == "application/vnd.oci.image.layer.v1.tar" + suffix
    assert "c /new" not in command("dump", tmp_path / "out").stdout


@pytest.mark.parametrize("compress", ["none", "zstd", "xz", "bzip2"])
def test_bases_of_every_compression(command: Command, tmp_path: Path, compress: str) -> None:
    """OCI has no media types for xz and bzip2: such layers are copied uncompressed."""
    image = docker_archive(tmp_path / "i.tar", layers(), compress=compress, style="25")
    with mounted(command, image, tmp_path / "mnt") as at:
        change(at)
        command("commit", at, "t", "-o", tmp_path / "out")
        lines = dump_directory(at)
    with mounted(command, tmp_path / "out", tmp_path / "new", "--read-only") as at:
        assert not differences(dump_directory(at), lines)


def test_a_plain_tar_becomes_an_image(command: Command, tmp_path: Path) -> None:
    image = tmp_path / "root.tar"
    image.write_bytes(layers()[0])
    with mounted(command, image, tmp_path / "mnt", "--upper", tmp_path / "upper") as at:
        (at / "new").touch()
    command("commit", tmp_path / "upper", "t", "-o", tmp_path / "out")
    opened = Opened.of(tmp_path / "out")
    assert len(opened.config["history"]) == len(opened.config["rootfs"]["diff_ids"]) == 2


def test_an_image_of_docker_1_9(command: Command, tmp_path: Path) -> None:
    image = docker_archive(tmp_path / "i.tar", layers(), style="1.9")
    with mounted(command, image, tmp_path / "mnt") as at:
        change(at)
        command("commit", at, "t", "-o", tmp_path / "out")
        lines = dump_directory(at)
    with mounted(command, tmp_path / "out", tmp_path / "new", "--read-only") as at:
        assert not differences(dump_directory(at), lines)
    assert len(Opened.of(tmp_path / "out").config["history"]) == 3


def test_nothing_changed_makes_no_layer(command: Command, image: Path, tmp_path: Path) -> None:
    with mounted(command, image, tmp_path / "mnt") as at:
        command("commit", at, "t", "-o", tmp_path / "out", "-c", "USER 7", "-m", "only a user")
    opened = Opened.of(tmp_path / "out")
    assert len(opened.manifest["layers"]) == 2 == len(opened.config["rootfs"]["diff_ids"])
    last = opened.config["history"][-1]
    assert last["empty_layer"] is True and last["comment"] == "only a user"
    assert opened.config["config"]["User"] == "7"


def test_committing_upon_a_committed_image(command: Command, upper: Path, tmp_path: Path) -> None:
    command("commit", upper, "t:1", "-o", tmp_path / "one")
    with mounted(command, tmp_path / "one", tmp_path / "mnt") as at:
        (at / "d/a").write_bytes(b"back")
        (at / "new/file").unlink()
        command("commit", at, "t:2", "-o", tmp_path / "two", "-a", "me")
        lines = dump_directory(at)
    with mounted(command, tmp_path / "two", tmp_path / "mnt", "--read-only") as at:
        assert not differences(dump_directory(at), lines)
    opened = Opened.of(tmp_path / "two")
    assert len(opened.manifest["layers"]) == 4 and opened.config["author"] == "me"


def test_a_layout_keeps_its_other_images(command: Command, upper: Path, tmp_path: Path) -> None:
    layout = oci_layout(tmp_path / "layout", layers(), tags=["other:1"])
    for _ in range(2):  # the second image replaces the first under its name
        command("commit", upper, "t:1", "-o", f"oci:{layout}")
    names = [
        entry["annotations"]["org.opencontainers.image.ref.name"]
        for entry in json.loads((layout / "index.json").read_text())["manifests"]
    ]
    assert names == ["other:1", "t:1"]
    assert "/d/a" in command("dump", f"{layout}:other:1").stdout
    assert "/d/a" not in command("dump", f"{layout}:t:1").stdout


def test_what_is_not_closed_yet_is_in_it(command: Command, image: Path, tmp_path: Path) -> None:
    data = os.urandom(300_000)
    with mounted(command, image, tmp_path / "mnt") as at:
        with open(at / "log", "wb", buffering=0) as file:
            file.write(data)
            command("commit", at, "t", "-o", f"docker-archive:{tmp_path}/out")
    layer = json.loads(Opened.of(tmp_path / "out").files["manifest.json"])[0]["Layers"][-1]
    with mounted(command, tmp_path / "out", tmp_path / "new", "--read-only") as at:
        assert (at / "log").read_bytes() == data, layer


def test_a_socket_is_left_out_with_a_word(command: Command, image: Path, tmp_path: Path) -> None:
    with mounted(command, image, tmp_path / "mnt") as at:
        (at / "d/a").unlink()
        (at / "x").touch()
        for name in ("d/a", "s"):
            with socket.socket(socket.AF_UNIX) as listener:
                os.chdir(at)
                listener.bind(name)
                os.chdir("/")
        output = command("commit", at, "t", "-o", tmp_path / "out").stderr
    assert "/s: a socket" in output and "/d/a: a socket" in output and output.count("\n") == 2
    paths = {line.split()[0] for line in command("dump", tmp_path / "out").stdout.splitlines()}
    assert "/x" in paths and not {"/s", "/d/a"} & paths


def test_holes_are_not_read(command: Command, image: Path, tmp_path: Path) -> None:
    with mounted(command, image, tmp_path / "mnt") as at:
        with open(at / "sparse", "wb") as file:
            file.truncate(256 << 20)
            file.seek(100 << 20)
            file.write(b"in the middle")
        command("commit", at, "t", "-o", tmp_path / "out")
    with mounted(command, tmp_path / "out", tmp_path / "new", "--read-only") as at:
        assert (at / "sparse").stat().st_size == 256 << 20
        with open(at / "sparse", "rb") as file:
            file.seek((100 << 20) - 1)
            assert file.read(15) == b"\0in the middle\0"


# ---- the same bytes -----------------------------------------------------------------------------


def test_the_same_upper_gives_the_same_bytes(
    epoch: Epoch, image: Path, upper: Path, tmp_path: Path
) -> None:
    for form in ("oci-archive", "docker-archive"):
        outs = [tmp_path / f"{form}.{i}" for i in range(2)]
        for out in outs:
            epoch("commit", upper, "t", "-o", f"{form}:{out}", "-c", "LABEL b=1 a=2", "-a", "me")
        assert outs[0].read_bytes() == outs[1].read_bytes()
    copied = tmp_path / "copy"  # other inodes, another order in the directories
    run("cp", "-a", upper, copied)
    epoch("commit", copied, "t", "-o", tmp_path / "again", "-c", "LABEL b=1 a=2", "-a", "me")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "oci-archive.0").read_bytes()


def test_source_date_epoch_is_the_images_time(epoch: Epoch, upper: Path, tmp_path: Path) -> None:
    """As buildah and BuildKit: files keep their times unless they are to be rewritten."""
    epoch("commit", upper, "t", "-o", tmp_path / "kept")
    epoch("commit", upper, "t", "-o", tmp_path / "rewritten", "--rewrite-timestamp")
    for name in ("kept", "rewritten"):
        config = Opened.of(tmp_path / name).config
        assert config["created"] == "2017-07-14T02:40:00Z" == config["history"][-1]["created"]
        lines = epoch("dump", tmp_path / name).stdout.splitlines()
        times = {line.split()[0]: line.split()[6] for line in lines}
        assert times["/d/c"] == times["/one"] == "1400000000.123456789"
        assert (times["/new/file"] == f"{EPOCH}.000000000") == (name == "rewritten")


@pytest.mark.parametrize("seconds", ["now", "-1", "1.5", "9" * 30])
def test_a_bad_source_date_epoch(epoch: Epoch, upper: Path, tmp_path: Path, seconds: str) -> None:
    failed = replace(epoch, seconds=seconds)(
        "commit", upper, "t", "-o", tmp_path / "out", check=False
    )
    assert failed.returncode == 2 and "SOURCE_DATE_EPOCH" in failed.stderr


# ---- errors -------------------------------------------------------------------------------------


def left(directory: Path) -> list[str]:
    return sorted(os.listdir(directory))


@pytest.mark.parametrize(
    ("words", "code", "output"),
    [
        (["Upper/Case", "-o", "out"], 2, "'Upper/Case'"),
        (["t:", "-o", "out"], 2, "'t:'"),
        (["t", "--format", "oci"], 2, "--format"),
        (["t", "--compress", "gzip"], 2, "--compress"),
        (["t", "-o", "out", "-c", "RUN x"], 2, "RUN"),
        (["t", "-o", "docker-archive:out", "--compress", "gzip"], 2, "--compress"),
        (["t", "-o", "oci:out", "--format", "docker-archive"], 2, "--format"),
        (["t", "-o", ""], 2, "output"),
        (["t", "-o", "image.tar"], 2, "image.tar"),
        (["t", "-o", "out", "--rewrite-timestamp"], 2, "SOURCE_DATE_EPOCH"),
        (["t", "-o", "no/such/directory"], 1, "no/such/directory"),
        (["t", "-o", "upper"], 1, "upper"),
        (["t", "-o", "oci:upper"], 1, "upper"),
        (["t", "-o", "oci:no/such"], 1, "no/such"),
        (["t", "-o", "/dev/null"], 1, "/dev/null"),
        (["t", "-o", "out", "--base", "nothing"], 3, "nothing"),
    ],
)
def test_errors_leave_nothing(
    command: Command, upper: Path, tmp_path: Path, words: list[str], code: int, output: str
) -> None:
    before = left(tmp_path), left(upper)
    line = [sys.executable, "-m", "fusemount", "commit", upper, *words]
    done = run(*line, check=False, cwd=tmp_path, env=command.environment)
    assert done.returncode == code and output in done.stderr.decode(), done.stderr
    assert done.stderr.count(b"\n") == 1
    assert (left(tmp_path), left(upper)) == before


@pytest.mark.parametrize("what", ["layers", "history", "size"])
def test_what_could_not_be_read_is_not_written(command: Command, tmp_path: Path, what: str) -> None:
    """The image below is at a limit, and one more step would be beyond it."""
    count = {"layers": 4096, "history": 100_000, "size": 1}[what]
    config: dict[str, object] = {"history": [{}] * count if what != "layers" else []}
    if what == "size":
        config["author"] = ""
        config["author"] = "x" * ((4 << 20) - len(ImageSpec(layers()[:1], (), config).config_bytes))
    base = oci_archive(tmp_path / "base.tar", layers()[:1] * (count if what == "layers" else 1),
                       config=config)  # fmt: skip
    upper = tmp_path / "full"
    upper.mkdir()
    (upper / "new").write_text("new")
    for target in (["-o", tmp_path / "out.tar"], []):
        done = command("commit", "--base", base, upper, "c:1", *target, check=False)
        (line,) = done.stderr.splitlines()
        assert done.returncode == 4 and "the new config" in line and "the limit is" in line, line
    assert not (tmp_path / "out.tar").exists()


def test_into_the_store(command: Command, upper: Path, tmp_path: Path) -> None:
    """The image is mounted by its name. A further commit on top of it keeps the stored layers."""
    first = command("commit", upper, "site/a:1").stdout.strip()
    with mounted(command, "site/a:1", tmp_path / "at", "--upper", tmp_path / "next") as at:
        shown = dump_directory(at)
        (at / "more").write_bytes(b"more")
        blobs = left(tmp_path / "dirs/root/blobs/sha256")
        second = command("commit", at, "site/a").stdout.strip()
        seen = dump_directory(at)
    with mounted(command, upper.parent / "image.tar", tmp_path / "old", "--upper", upper) as at:
        assert not (found := differences(shown, dump_directory(at))), found
    with mounted(command, second.removeprefix("sha256:")[:12], tmp_path / "new") as at:
        assert not (found := differences(dump_directory(at), seen)), found
    assert (
        len(left(tmp_path / "dirs/root/blobs/sha256")) == len(blobs) + 3
    )  # layer, config, manifest
    rows = command("ls", "--no-trunc", "--format", "{{.Tag}} {{.ID}}").stdout.splitlines()
    assert sorted(rows) == sorted([f"1 {first}", f"latest {second}"])
    assert "as they should be" in command("verify").stdout


@contextmanager
def small_disk(at: Path, size: str) -> Iterator[Path]:
    at.mkdir()
    run("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", at)
    try:
        yield at
    finally:
        run("umount", at)


@pytest.mark.parametrize("form", ["oci-archive", "docker-archive", "oci"])
def test_a_full_disk(command: Command, image: Path, tmp_path: Path, form: str) -> None:
    with mounted(command, image, tmp_path / "mnt") as at, small_disk(tmp_path / "s", "1M") as disk:
        (at / "big").write_bytes(os.urandom(3 << 20))
        failed = command("commit", at, "t", "-o", f"{form}:{disk}/out", check=False)
        assert failed.returncode == 10 and str(disk) in failed.stderr
        assert left(disk) == []


def test_what_was_there_stays_until_the_end(command: Command, image: Path, tmp_path: Path) -> None:
    with mounted(command, image, tmp_path / "mnt") as at, small_disk(tmp_path / "s", "2M") as disk:
        (disk / "out").write_bytes(b"before")
        (at / "big").write_bytes(os.urandom(3 << 20))
        assert command("commit", at, "t", "-o", disk / "out", check=False).returncode == 10
        assert (disk / "out").read_bytes() == b"before" and left(disk) == ["out"]
        (at / "big").unlink()
        command("commit", at, "t", "-o", disk / "out")
        assert (disk / "out").read_bytes() != b"before" and left(disk) == ["out"]


def test_a_name_that_would_delete_is_left_out(
    command: Command, image: Path, tmp_path: Path
) -> None:
    with mounted(command, image, tmp_path / "mnt") as at:
        (at / ".wh.d").mkdir()
        (at / ".wh.d/below").touch()
        (at / "kept").touch()
        done = command("commit", at, "t", "-o", tmp_path / "out")
    assert "/.wh.d: a name that begins with .wh." in done.stderr and "below" not in done.stderr
    dumped = command("dump", tmp_path / "out").stdout
    assert "/kept " in dumped and ".wh." not in dumped and "below" not in dumped


def test_a_changed_layer_is_found_out(command: Command, image: Path, tmp_path: Path) -> None:
    """The digest is computed of the bytes that are written: so a change after opening is found."""
    with mounted(command, image, tmp_path / "mnt", "--upper", tmp_path / "upper") as at:
        (at / "x").touch()
    data = image.read_bytes()
    at = data.index(b"\x1f\x8b", 512) + 20
    image.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    failed = command("commit", tmp_path / "upper", "t", "-o", tmp_path / "out", check=False)
    assert failed.returncode in (4, 5) and not (tmp_path / "out").exists()


def test_quiet_prints_nothing(command: Command, upper: Path, tmp_path: Path) -> None:
    done = command("commit", "-q", upper, "t", "-o", tmp_path / "out")
    assert (done.stdout, done.stderr) == ("", "")


def test_a_mount_that_goes_on_changing(command: Command, image: Path, tmp_path: Path) -> None:
    """Each commit makes an image that can be read, or prints one line that names the file that
    disappeared or shrank."""
    script = """
    i=0
    while [ -e d ]; do
        i=$((i+1)); echo $i > file$((i%9)); rm -f file$(((i+4)%9)); mkdir -p dir$((i%3))/sub
        mv dir$((i%3)) moved$((i%2)) 2>/dev/null || rm -rf moved$((i%2))
        echo line >> d/b; chmod 6$((i%8))4 one; : > d/c; ln -f d/c dir$((i%3))/sub/c 2>/dev/null
    done
    """
    with mounted(command, image, tmp_path / "mnt") as at:
        busy = subprocess.Popen(
            ["sh", "-c", script], cwd=at, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            for i in range(8):
                out = tmp_path / f"out{i}"
                done = command("commit", at, "t", "-o", out, check=False)
                if done.returncode == 0:
                    command("dump", "--digest", out)
                else:
                    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
                    assert "while it was read" in done.stderr and not out.exists()
                command("diff", at)
        finally:
            os.killpg(busy.pid, signal.SIGKILL)
            busy.wait()
        command("commit", at, "t", "-o", tmp_path / "last")
        lines = dump_directory(at)
    with mounted(command, tmp_path / "last", tmp_path / "new", "--read-only") as at:
        assert not differences(dump_directory(at), lines)


@pytest.mark.parametrize("form", ["oci-archive", "docker-archive", "oci"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_nothing(
    command: Command, image: Path, tmp_path: Path, form: str, number: signal.Signals
) -> None:
    there = tmp_path / "there"
    there.mkdir()
    with mounted(command, image, tmp_path / "mnt") as at:
        with open(at / "zeros", "wb") as file:
            file.truncate(1 << 40)  # large enough to take as long as the test does
        line = [sys.executable, "-m", "fusemount", "commit", at, "t", "-o", f"{form}:{there}/out"]
        line += ["--compress", "none", "--max-unpacked", "unlimited"]
        busy = subprocess.Popen(list(map(str, line)), env=command.environment, stderr=-1)
        try:
            while not any(path.stat().st_size > 1 << 20 for path in there.rglob("*")):
                assert busy.poll() is None
                time.sleep(0.01)
            busy.send_signal(number)
            _, output = busy.communicate(timeout=30)
        finally:
            busy.kill()
    assert busy.returncode == 128 + number and output == b""
    assert left(there) == []
