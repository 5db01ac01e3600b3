"""Published breakouts of runc, docker, containerd, buildah, podman and cri-o, tried on `run`.

Each image is made for one of them. None may read, change or make a file of the host: the host has
a directory with a secret, whose path is in the images. Breakouts that have no counterpart here are
listed in docs/security.md.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from busyboximage import busybox_layers, left_behind
from imagewriter import docker_archive
from mounted import Command
from tarwriter import TarWriter

# Up from whatever a descriptor of the host leads to, and which led there once.
UP = "/.." * 12
FDS = (7, 9)


@pytest.fixture
def secret(tmp_path: Path) -> Iterator[Path]:
    """A directory of the host, which must not be changed."""
    path = tmp_path / "host"
    path.mkdir()
    (path / "secret").write_text("secret\n")
    yield path
    assert [p.name for p in path.iterdir()] == ["secret"]
    assert (path / "secret").read_text() == "secret\n"
    assert left_behind(tmp_path) == []


@dataclass(frozen=True)
class Breakout:
    """layer: makes the hostile layer, given the secret's directory. config: the image's.

    flags: of `run`. code: the exit status.  text: a part of stdout, or of the line on stderr.
    """

    layer: Callable[[TarWriter, Path], object]
    script: str = "true"
    config: dict[str, object] = field(default_factory=dict)
    flags: Sequence[str] = ()
    code: int = 0
    text: str = ""


def links(*pairs: tuple[str, str]) -> Callable[[TarWriter, Path], object]:
    """A layer of symlinks; HOST in a target stands for the secret's directory."""

    def write(tar: TarWriter, host: Path) -> None:
        for name, target in pairs:
            tar.symlink(name, target.replace("HOST", str(host)))

    return write


def script_of_the_host(tar: TarWriter, _: Path) -> None:
    tar.file("start", b"#!/proc/self/exe\n", mode=0o755)


def shadowed_proc(tar: TarWriter, host: Path) -> None:
    tar.dir("proc").dir("proc/self").dir("proc/self/attr").file("proc/self/attr/exec", b"not proc")
    tar.symlink("proc/1", str(host))


NOTHING = links()
IN_PROC = "leads through a link of /proc"
BREAKOUTS = {
    # A descriptor of the host as working directory: in the config, by a link, on the command line.
    **{
        f"CVE-2024-21626 fd {fd}": Breakout(
            NOTHING, f"cat .HOST/secret; touch .HOST/new; ls .{UP}HOST",
            {"WorkingDir": f"/proc/self/fd/{fd}{UP}"}, code=125,
        )
        for fd in FDS
    },
    "CVE-2024-21626 link": Breakout(
        links(("w", f"/proc/self/cwd{UP}")), "cat .HOST/secret", flags=("-w", "/w/x"),
        code=125, text=IN_PROC,
    ),
    "working directory by a link": Breakout(
        links(("w", "HOST")), "pwd; ls", flags=("-w", "/w"), text="HOST",
    ),
    "CVE-2021-30465": Breakout(
        links(("data", "HOST"), ("more", "../../../../../../HOST")), "ls /data/x /more/y",
        flags=("-v", "VOLUME:/data/x", "-v", "VOLUME:/more/y"), text="/data/x:",
    ),
    "CVE-2021-30465 in a volume": Breakout(
        NOTHING, "ls /v/out", flags=("-v", "VOLUME:/v", "-v", "VOLUME:/v/out/x"), text="x",
    ),
    "volume through a link of /proc": Breakout(
        links(("data", f"/proc/self/fd/6{UP}HOST")), flags=("-v", "VOLUME:/data/x"), code=125,
        text="cannot set up /data/x in the image",
    ),
    "volume over a file of /proc": Breakout(
        links(("data", "/proc/sys")), flags=("-v", "VOLUME:/data"), code=125,
        text="it leads into /proc",
    ),
    "CVE-2019-19921": Breakout(
        links(("proc", "HOST")), code=125, text="cannot set up /proc in the image: Not a directory",
    ),
    "CVE-2025-31133, CVE-2025-52565": Breakout(
        links(*((f"dev/{name}", "HOST/secret") for name in ("null", "console", "ptmx", "zero")),
              ("dev/pts", "HOST"), ("dev/shm", "HOST"), ("dev/.imgmount", "HOST/secret")),
        "test -c /dev/null && echo gone > /dev/null; echo x > /dev/shm/x; cat /dev/shm/x",
        text="x",
    ),
    "CVE-2025-52881": Breakout(
        shadowed_proc, "cat /proc/self/attr/exec; ls /proc/1/host; cat /proc/1/comm", text="python",
    ),
    "CVE-2024-1753, CVE-2024-9341": Breakout(
        links(("etc", "HOST")), "cat /etc/hosts; ls HOST", text="hosts",
    ),
    **{
        f"{file} through a link of /proc": Breakout(
            links((file, f"/proc/self/fd/6{UP}HOST/new")), code=125, text=f"cannot set up /{file}",
        )
        for file in ("etc/hosts", "etc/resolv.conf")
    },
    "etc/hosts over a file of /proc": Breakout(
        links(("etc/hosts", "/proc/sys/kernel/hostname")), code=125, text="it leads into /proc",
    ),
    "CVE-2019-5736 link": Breakout(
        links(("start", "/proc/self/exe")), config={"Entrypoint": ["/start"]}, code=126,
        text=IN_PROC,
    ),
    "CVE-2019-5736 script": Breakout(
        script_of_the_host, config={"Entrypoint": ["start"], "Env": ["PATH=/"]}, code=126,
        text=IN_PROC,
    ),
    # It is opened for appending and not written to; a running interpreter cannot be opened so.
    "CVE-2019-5736 pid 1": Breakout(
        NOTHING, "sh -c ': >> /proc/1/exe' || sh -c ': >> /proc/self/exe' || echo held",
        text="held",
    ),
    "CVE-2016-9962": Breakout(
        NOTHING, "cd /proc/1/fd && echo *; cd /proc/self/fd && echo *", text="0 1 2\n0 1 2",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BREAKOUTS)
def test_breakout(name: str, command: Command, secret: Path, tmp_path: Path) -> None:
    breakout = BREAKOUTS[name]
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "out").symlink_to(secret)

    def here(text: str) -> str:
        return text.replace("HOST", str(secret)).replace("VOLUME", str(volume))

    base, layer = busybox_layers()[0], TarWriter()
    breakout.layer(layer, secret)
    config = {"Entrypoint": ["/bin/sh", "-c"], "Env": ["PATH=/bin"], **breakout.config}
    image = docker_archive(tmp_path / "evil.tar", [base, layer.tar()], config={"config": config})
    done = command(
        "run", *map(here, breakout.flags), image, here(breakout.script), check=False, seconds=60
    )
    text = done.stdout + done.stderr
    assert done.returncode == breakout.code, text
    assert here(breakout.text) in text
    assert "secret" not in text
    if breakout.code == 125:
        assert done.stderr.count("\n") == 1


AUDITED = """
import os, sys
from fusemount.cli.main import main

ROOT = os.stat("/")

def image_maps():
    device = os.stat("/").st_dev
    here = f"{os.major(device):02x}:{os.minor(device):02x}"
    fd = os.open("/proc/self/maps", os.O_RDONLY)
    lines = b"".join(iter(lambda: os.read(fd, 65536), b"")).decode().splitlines()
    os.close(fd)
    return [line for line in lines if line.split()[3] == here]

def hook(event, args):
    if event in ("import", "ctypes.dlopen", "os.exec") and not os.path.samestat(ROOT, os.stat("/")):
        os.write(2, f"{event} {args[0]!r}\\n".encode())
        if event == "os.exec":
            os.write(2, f"importers {sys.meta_path} mapped {image_maps()}\\n".encode())

sys.addaudithook(hook)
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("program", ["/bin/true", "/no/such"])
def test_nothing_of_the_image_is_loaded_by_us(
    program: str, command: Command, tmp_path: Path
) -> None:
    """CVE-2019-14271: docker cp loaded libnss of the container. After the root has changed nothing
    may be loaded, not even to print an error."""
    image = docker_archive(tmp_path / "image.tar", busybox_layers())
    done = subprocess.run(
        [sys.executable, "-c", AUDITED, "run", "-u", "alice:extra", "-w", "/a/b", image, program],
        env=command.environment | {"LC_ALL": "C.UTF-8"}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    text = [line for line in done.stderr.splitlines() if not line.startswith("imgmount: ")]
    assert text == [f"os.exec {program!r}", "importers [] mapped []"]
    assert done.returncode == (0 if program == "/bin/true" else 127)
