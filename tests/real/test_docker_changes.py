"""`--change` lines give the same config here and in `docker commit --change`.

Not tested: `CMD []`, for which docker's commit puts the container's own command back, and
STOPSIGNAL, which it refuses.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from dockerd import Dockerd, dockerd
from imagewriter import docker_archive
from tarwriter import TarWriter

from fusemount.errors import UsageError
from fusemount.image.changeline import apply_changes

BASE = {
    "Env": ["PATH=/bin", "HOME=/root", "SP=a b"],
    "Cmd": ["/bin/sh"],
    "Labels": {"old": "1"},
    "WorkingDir": "/srv",
    "User": "7",
}
KEYS = ("Cmd", "Entrypoint", "Env", "Labels", "User", "WorkingDir", "ExposedPorts", "Volumes",
        "StopSignal")  # fmt: skip

LINES = [
    ['CMD ["a", "b c"]'], ["CMD echo $HOME 'x'  y"], ["cmd exec"], ["CMD [not json"],
    ['ENTRYPOINT ["/init"]'], ["ENTRYPOINT exec top"], ['CMD ["c"]', 'ENTRYPOINT ["e"]'],
    ['ENTRYPOINT ["e"]', 'CMD ["c"]'], ["ENV A=1"], ["ENV A=1 B='two words' C=\"$HOME/x\""],
    ["ENV PATH=/opt:$PATH"], ["ENV A the rest  of it"], ["ENV A=a\\ b"], ["ENV A="],
    ["ENV A='$HOME' B=\\$HOME"], ["ENV A=${HOME}x B=${NO:-dflt} C=${HOME:+set} D=${NO}"],
    ["ENV A=$SP B=\"$SP\""], ["ENV A=1", "ENV B=$A$A"], ['ENV A="x\\"y" B="x\\ny"'],
    ["ENV A=x'y'\"z\""], ["ENV A $HOME and 'quotes'"], ["ENV A=1 B=$A"],
    ['LABEL a=1 "b c"="d e"'], ["LABEL old=2"], ["LABEL a the rest"], ["LABEL a=$HOME"],
    ["USER 7:8"], ["USER $HOME"], ["WORKDIR /a/../b/"], ["WORKDIR sub/dir"], ["WORKDIR $HOME"],
    ["WORKDIR /x", "WORKDIR y"], ["WORKDIR /a b"], ["EXPOSE 80"], ["EXPOSE 53/udp 8000-8002/TCP"],
    ["VOLUME /a /b"], ['VOLUME ["/a b", "/c"]'], ["VOLUME $HOME/x"],
]  # fmt: skip

BAD = ["RUN make", "ENV", "ENV =x", "ENV A=1 B", "ENV A='open", "ENV A=${open", "LABEL", "USER",
       "WORKDIR", "EXPOSE", "EXPOSE http", "EXPOSE 70000", "EXPOSE 9-8", "VOLUME", ""]  # fmt: skip


def told(config: dict[str, object]) -> dict[str, object]:
    return {key: config[key] for key in KEYS if config.get(key)}


def dockers(docker: Dockerd, lines: list[str]) -> dict[str, object] | None:
    """The config of the image that docker makes; None if docker refuses the line."""
    words = [word for line in lines for word in ("--change", line)]
    try:
        ident = docker("commit", *words, "box")
    except AssertionError:
        return None
    (image,) = json.loads(docker("image", "inspect", ident))
    return told(image["Config"])


def ours(lines: list[str]) -> dict[str, object] | None:
    try:
        return told(apply_changes(BASE, lines))
    except UsageError:
        return None


def test_lines_mean_what_docker_makes_of_them(tmp_path: Path) -> None:
    image = docker_archive(
        tmp_path / "image.tar",
        [TarWriter().dir("srv").tar()],
        tags=["t:1"],
        config={"config": BASE},
        compress="none",
    )
    base = tmp_path / "d"
    base.mkdir()
    try:
        with dockerd(base) as docker:
            docker("load", "-q", "-i", image)
            docker("create", "--name", "box", "t:1")
            found = {tuple(x): (ours(x), dockers(docker, x)) for x in [*LINES, *([b] for b in BAD)]}
    finally:
        shutil.rmtree(base)
    differing = {lines: both for lines, both in found.items() if both[0] != both[1]}
    assert not differing, "\n".join(
        f"{k}: ours {a}, docker's {b}" for k, (a, b) in differing.items()
    )
