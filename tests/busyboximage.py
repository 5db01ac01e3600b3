"""A genuine small root file system (Debian's static busybox) as layers; what a mount leaves."""

from __future__ import annotations

from pathlib import Path

from tarwriter import TarWriter

from fusemount.mountinfo import mounts

APPLETS = ("cat", "echo", "hostname", "id", "ls", "mkdir", "pwd", "rm", "sh", "sleep", "test",
           "touch", "true")  # fmt: skip

PASSWD = b"root:x:0:0::/root:/bin/sh\nalice:x:1000:1001::/home/alice:/bin/sh\n"
GROUP = b"root:x:0:\nalice:x:1001:\nextra:x:50:alice\nother:x:51:bob\n"


def busybox_layers() -> list[bytes]:
    program = Path("/bin/busybox").read_bytes()
    t = TarWriter().dir("bin").file("bin/busybox", program, mode=0o755).dir("etc")
    for applet in APPLETS:
        t.symlink(f"bin/{applet}", "busybox")
    t.file("etc/passwd", PASSWD).file("etc/group", GROUP).file("etc/motd", b"hello\n")
    second = TarWriter().dir("tmp", mode=0o1777).dir("etc").file("etc/second", b"2\n")
    return [t.tar(), second.tar()]


def left_behind(base: Path) -> list[str]:
    """Mounts, scratches and records below base."""
    found = [f"mounted: {m.mountpoint}" for m in mounts() if base in m.mountpoint.parents]
    found += [str(p) for p in base.glob("state/uppers/*")]
    found += [str(p) for p in base.glob("runtime/*")]
    return found
