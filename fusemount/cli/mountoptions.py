"""Law: the words of `-o`, as mount(8), fstab(5) and mount.fuse3 give them, become settings.

Every word is known or an error: a misspelt `nosiud` must not be ignored.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fusemount.errors import UsageError
from fusemount.settings import ImageOptions, MountOptions

# For mount(8), systemd and others; nothing to do for us.
IGNORED = frozenset(
    ("defaults", "auto", "noauto", "user", "nouser", "users", "nousers", "owner", "noowner",
     "group", "nogroup", "nofail", "_netdev", "silent", "loud", "mand", "nomand", "iversion",
     "noiversion", "lazytime", "nolazytime")
)  # fmt: skip
IGNORED_PREFIXES = ("x-", "X-", "comment=", "user=")

# Words that go to the kernel as they are (channel.FLAG_WORDS has their bits).
KERNEL = frozenset(
    ("noexec", "exec", "sync", "async", "dirsync", "noatime", "atime", "nodiratime", "diratime",
     "relatime", "norelatime", "strictatime", "nonempty")
)  # fmt: skip


THREADS_MAX = 64


@dataclass
class Words:
    """What the words said; None: nothing."""

    read_only: bool | None = None
    suid: bool | None = None
    dev: bool | None = None
    allow_other: bool | None = None
    default_permissions: bool | None = None
    keep: bool = False
    upper: str | None = None
    work: str | None = None
    platform: str | None = None
    verify: bool = True
    follow_symlink_parents: bool = False
    fastpath: bool = True
    threads: int | None = None
    push: bool = True
    kernel: list[str] = field(default_factory=list)


def split_options(text: str) -> Iterator[str]:
    """At commas, save `\\,` (fstab's and libfuse's way to have one in a value)."""
    word = ""
    characters = iter(text)
    for c in characters:
        if c == "\\":
            c = next(characters, "\\")
            word += c if c in ",\\" else "\\" + c
        elif c == ",":
            yield word
            word = ""
        else:
            word += c
    yield word


def parse_options(texts: Iterable[str]) -> Words:
    """Later words win. Raises UsageError for a word that is not known or lacks its value."""
    words = Words()
    for text in texts:
        for word in split_options(text):
            if word and word not in IGNORED and not word.startswith(IGNORED_PREFIXES):
                _take(words, word)
    return words


_SWITCHES: dict[str, tuple[str, bool]] = {
    "ro": ("read_only", True),
    "rw": ("read_only", False),
    "suid": ("suid", True),
    "nosuid": ("suid", False),
    "dev": ("dev", True),
    "nodev": ("dev", False),
    "allow_other": ("allow_other", True),
    "noallow_other": ("allow_other", False),
    "default_permissions": ("default_permissions", True),
    "nodefault_permissions": ("default_permissions", False),
    "keep": ("keep", True),
    "noverify": ("verify", False),
    "verify": ("verify", True),
}

# `word=value`: each value that it may have, and the setting that it then is.
_CHOICES: dict[str, tuple[str, dict[str, bool]]] = {
    "symlink-parents": ("follow_symlink_parents", {"follow": True, "replace": False}),
    "fastpath": ("fastpath", {"on": True, "off": False}),
    "push": ("push", {"on": True, "off": False}),
}

_VALUES = {"upper": "upper", "upperdir": "upper", "workdir": "work", "platform": "platform"}


def _take(words: Words, word: str) -> None:
    key, equals, value = word.partition("=")
    if word in _SWITCHES:
        name, setting = _SWITCHES[word]
        setattr(words, name, setting)
    elif word in KERNEL:
        words.kernel.append(word)
    elif word == "allow_root":
        if os.geteuid() != 0:
            raise UsageError("-o allow_root: not offered; allow_other lets root in as well")
        words.allow_other = False  # the mount is root's, whom it always serves
    elif word == "remount":
        raise UsageError("-o remount: not offered; unmount, and mount again")
    elif key in _VALUES and value:
        setattr(words, _VALUES[key], value)
    elif key in ("fsname", "subtype") and value:
        words.kernel.append(word)
    elif key in _CHOICES:
        name, choices = _CHOICES[key]
        if value not in choices:
            raise UsageError(f"-o {key}=: bad value {value!r}: one of {', '.join(choices)}")
        setattr(words, name, choices[value])
    elif key == "threads":
        words.threads = _threads(value)
    elif equals and key in (*_VALUES, "fsname", "subtype"):
        raise UsageError(f"-o {key}=: bad value {value!r}")
    else:
        raise UsageError(f"-o {word}: no such option")


def _threads(value: str) -> int:
    short = value.isascii() and value.isdecimal() and len(value) <= 3
    if short and 1 <= int(value) <= THREADS_MAX:
        return int(value)
    raise UsageError(f"-o threads=: bad value {value!r}: a number from 1 to {THREADS_MAX}")


def mount_options(words: Words, **flags: object) -> MountOptions:
    """The words with defaults filled in, which depend on who mounts.

    root: suid and dev are on and all users may enter, for this is to be a root file system.
    A user: the kernel insists on nosuid and nodev, and only that user may enter; what they may do
    is then theirs to say, so files of the image's root do not shut them out unless
    `default_permissions` or `allow_other` is given.
    """
    root = os.geteuid() == 0
    allow_other = root if words.allow_other is None else words.allow_other
    checked = words.default_permissions
    settings: dict[str, object] = {
        "read_only": bool(words.read_only),
        "upper": Path(words.upper).absolute() if words.upper else None,
        "work": Path(words.work).absolute() if words.work else None,
        "keep": words.keep,
        "follow_symlink_parents": words.follow_symlink_parents,
        "allow_other": allow_other,
        "default_permissions": (root or allow_other) if checked is None else checked,
        "suid": root if words.suid is None else words.suid,
        "dev": root if words.dev is None else words.dev,
        "fastpath": words.fastpath,
        "threads": words.threads,
        "push": words.push,
        "kernel_options": tuple(words.kernel),
    }
    settings.update(flags)
    return MountOptions(**settings)  # type: ignore[arg-type]


def image_options_of(words: Words) -> ImageOptions:
    from fusemount.cli.arguments import image_options

    return image_options(words.platform, verify=words.verify)
