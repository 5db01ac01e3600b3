"""Makes an image of three layers with buildah, apt, dpkg and file tools.

Law: no code of ours takes part.  The storage is a directory of the caller, so that the machine's
images do not change.

    1  the Debian root
    2  apt installs a package; files and directories of layer 1 are removed, replaced by other
       kinds, linked, and get ids, capabilities, xattrs, set-id bits; every kind of file is made
    3  dpkg removes the package; files that layer 2 made are changed, removed, made again
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import hostapt
from oracle import run

TAG = "real:3"
PACKAGE = "python3-minimal"

_SECOND = f"""
export DEBIAN_FRONTEND=noninteractive
apt-get -q update && apt-get -q install -y --no-install-recommends {PACKAGE}
"""

# the host's tools run this on the mounted container; $1 is the container's root
_SECOND_BY_HAND = r"""
set -e
cd "$1"
rm -r etc/skel usr/share/bug etc/issue.net
mkdir -m 2775 etc/skel && echo new > etc/skel/new          # opaque in the layer
rm etc/debian_version && mkdir etc/debian_version && echo d > etc/debian_version/x
rm -r usr/share/common-licenses && echo f > usr/share/common-licenses
ln usr/bin/perl usr/bin/perl-again
mkdir -p opt/kinds/deep/deeper && cd opt/kinds
echo linked > one && ln one two && ln one deep/three && ln one deep/deeper/four
cp "$1/usr/bin/env" setuid && chmod 6755 setuid
cp "$1/usr/bin/env" capable && setcap cap_net_raw,cap_net_admin+ep capable
echo x > tagged && setfattr -n user.note -v 'a=b,c' tagged
setfattr -n user.binary -v 0x00ff0a3d tagged
mknod null c 1 3 && mknod far b 300 70000 && mkfifo pipe
ln -s ../nowhere dangling && ln -s "$(printf 'x%.0s' $(seq 200))" longlink
printf latin > "$(printf 'caf\351')" && printf space > 'a b	c'
printf long > "$(printf 'n%.0s' $(seq 255))"
echo big > bigid && chown 2200000:3000000 bigid
truncate -s 3M sparse && printf end >> sparse
touch -d '1999-12-31 23:59:59' old && touch -d '2060-01-01' future
mkdir -m 1777 sticky && mkdir empty && chmod 0 empty
: > nothing && chmod 0400 nothing
"""

_THIRD = f"""
set -e
dpkg --purge {PACKAGE} python3.11-minimal
rm -r /var/lib/apt/lists && mkdir /var/lib/apt/lists       # opaque again
rm /etc/skel/new && echo again > /etc/issue.net
rm /opt/kinds/one /opt/kinds/tagged && mkdir /opt/kinds/tagged
rm -r /opt/kinds/deep/deeper && chmod 0711 /opt/kinds/deep
echo more >> /opt/kinds/capable
mv /opt/kinds/empty /opt/kinds/moved && mv /etc/debian_version/x /etc/debian_version/y
rm /usr/share/common-licenses && mkdir /usr/share/common-licenses
mkdir -p /usr/share/bug && echo b > /usr/share/bug/b
chown 7:8 /var/lib/dpkg
"""


@dataclass
class Buildah:
    """buildah and podman with a storage of their own. driver: "" for their default."""

    base: Path
    driver: str = ""

    @property
    def _storage(self) -> list[str | Path]:
        driver: list[str | Path] = ["--storage-driver", self.driver] if self.driver else []
        return ["--root", self.base / "root", "--runroot", self.base / "run", *driver]

    def __call__(self, *words: str | Path) -> str:
        return run("buildah", *self._storage, *words).stdout.decode().strip()

    def podman(self, *words: str | Path) -> str:
        return run("podman", *self._storage, *words).stdout.decode().strip()

    @contextmanager
    def container(self, source: str, commit: str) -> Iterator[str]:
        """Makes a working container; at the end it is committed as the image."""
        name = self("from", "--pull-never", source)
        try:
            yield name
            self("commit", "-q", name, commit)
        finally:
            self("rm", name)

    def shell(self, container: str, script: str) -> None:
        """Runs a script in the container, with the machine's network."""
        self("run", "--isolation", "chroot", container, "--", "sh", "-c", script)

    def by_hand(self, container: str, script: str) -> None:
        root = self("mount", container)
        try:
            run("bash", "-c", script, "bash", root)
        finally:
            self("umount", container)

    def make(self, root_tar: Path) -> str:
        """Makes the image; returns its name."""
        with self.container("scratch", "real:1") as box:
            self("add", box, root_tar, "/")
            root = Path(self("mount", box))
            hostapt.give_network(root)
            self("umount", box)
        with self.container("localhost/real:1", "real:2") as box:
            self.shell(box, _SECOND)
            self.by_hand(box, _SECOND_BY_HAND)
        with self.container("localhost/real:2", TAG) as box:
            self.shell(box, _THIRD)
        return f"localhost/{TAG}"

    def clean(self) -> None:
        """Removes the containers, images and mounts of this storage."""
        for words in (["rm", "--all"], ["rmi", "--all", "--force"]):
            subprocess.run(
                ["buildah", *map(str, self._storage), *words], capture_output=True, timeout=60
            )
        subprocess.run(["umount", self.base / "root/overlay"], capture_output=True, timeout=20)
