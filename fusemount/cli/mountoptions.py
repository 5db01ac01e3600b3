"""Turns the words of `-o`, as mount(8), fstab(5) and mount.fuse3 give them, into settings.

Law: an unknown word is an error, because a misspelt `nosiud` must not be ignored.  overlaywords.py
has the one exception and its reason.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import field, replace
from pathlib import Path

from fusemount.dataclass import dataclass
from fusemount.errors import UsageError
from fusemount.settings import (
    IdRange,
    ImageOptions,
    MountOptions,
    Owners,
    Unpacking,
    UserMarks,
)

# Words for mount(8), systemd and others. The mount itself ignores them.
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
    """The settings that the words give; None: no word gives this setting."""

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
    max_unpacked: str = ""
    unpacking: Unpacking = Unpacking.AUTO
    cache_size: int | None = None
    follow_symlink_parents: bool | None = None
    fastpath: bool = True
    threads: int | None = None
    push: bool = True
    metacopy: bool | None = None
    redirect: bool | None = None
    volatile: bool = False
    remount: bool = False
    bind: bool = False
    lower: str | None = None  # still escaped
    uids: tuple[IdRange, ...] = ()
    gids: tuple[IdRange, ...] = ()
    squash_root: bool = False
    squash_uid: int = -1
    squash_gid: int = -1
    userxattr: bool = False
    static_nlink: bool = False
    xattrs: bool = True
    override_stat: bool | None = None
    ignored: list[str] = field(default_factory=list)
    kernel: list[str] = field(default_factory=list)


def split_options(text: str) -> Iterator[str]:
    """Splits at commas; the words stay escaped.

    Does not split at `\\,` (a comma in a value, by fstab and libfuse) and between quotes (mount(8)
    has them for SELinux contexts).
    """
    word, quoted = "", False
    characters = iter(text)
    for c in characters:
        if c == "\\":
            word += c + next(characters, "")
        elif c == "," and not quoted:
            yield word
            word = ""
        else:
            if c == '"' and (quoted or word.endswith("=")):
                quoted = not quoted
            word += c
    yield word


def unescaped(word: str) -> str:
    return re.sub(r"\\([,\\])", r"\1", word)


def parse_options(texts: Iterable[str]) -> Words:
    """Parses all -o options; a later word wins.

    Raises UsageError for an unknown word and for a word that lacks its value.
    """
    raw = [word for text in texts for word in split_options(text)]
    if any(word.startswith("lowerdir=") for word in raw):
        from fusemount.cli.overlaywords import overlay_words

        return overlay_words(raw)
    # To a remount mount(8) adds the words that it finds in mountinfo; unknown ones are ignored.
    words = Words(remount="remount" in raw)
    for word in map(unescaped, raw):
        if word and not take(words, word) and not words.remount:
            raise UsageError(f"-o {word}: no such option")
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
    "volatile": ("volatile", True),
    "userxattr": ("userxattr", True),
}

# `word=value`: the setting's name, and each allowed value with the setting that it means.
_CHOICES: dict[str, tuple[str, dict[str, object]]] = {
    "unpack": ("unpacking", {word.value: word for word in Unpacking}),
    "symlink-parents": ("follow_symlink_parents", {"follow": True, "replace": False}),
    "fastpath": ("fastpath", {"on": True, "off": False}),
    "push": ("push", {"on": True, "off": False}),
    "override_stat": ("override_stat", {"on": True, "off": False}),
    "metacopy": ("metacopy", {"on": True, "off": False}),
    "redirect_dir": ("redirect", {"on": True, "off": False, "follow": False, "nofollow": False}),
}

_VALUES = {"upper": "upper", "upperdir": "upper", "workdir": "work", "platform": "platform",
           "max-unpacked": "max_unpacked"}  # fmt: skip


def take(words: Words, word: str) -> bool:
    """Puts one word into words; False if it is unknown. Raises UsageError for a bad value."""
    key, equals, value = word.partition("=")
    if word in IGNORED or word.startswith(IGNORED_PREFIXES):
        pass
    elif word in _SWITCHES:
        name, setting = _SWITCHES[word]
        setattr(words, name, setting)
    elif word in KERNEL:
        words.kernel.append(word)
    elif word == "allow_root":
        if os.geteuid() != 0:
            raise UsageError("-o allow_root: not offered; allow_other lets root in as well")
        words.allow_other = False  # root mounts, and may always enter its own mount
    elif word == "remount":
        words.remount = True
    elif word == "bind" and words.remount:
        words.bind = True
    elif key in _VALUES and value:
        setattr(words, _VALUES[key], value)
    elif key in ("fsname", "subtype") and value:
        words.kernel.append(word)
    elif key in _CHOICES:
        name, choices = _CHOICES[key]
        if value not in choices:
            raise UsageError(f"-o {key}=: bad value {value!r}: one of {', '.join(choices)}")
        setattr(words, name, choices[value])
    elif key == "cache-size" and value:
        from fusemount.cli.arguments import cache_size_of

        words.cache_size = cache_size_of(f"-o {word}", value)
    elif key == "threads":
        words.threads = _threads(value)
    elif equals and key in (*_VALUES, "fsname", "subtype"):
        raise UsageError(f"-o {key}=: bad value {value!r}")
    else:
        return False
    return True


def _threads(value: str) -> int:
    short = value.isascii() and value.isdecimal() and len(value) <= 3
    if short and 1 <= int(value) <= THREADS_MAX:
        return int(value)
    raise UsageError(f"-o threads=: bad value {value!r}: a number from 1 to {THREADS_MAX}")


def mount_options(words: Words, **flags: object) -> MountOptions:
    """Fills in the defaults, which depend on the user who mounts.

    If root mounts, all users may enter.  An image is untrusted, and every user could run its set-id
    files and open its devices, so suid and dev are off.  For directories (`lowerdir=`) both are on,
    as in overlayfs, because root already has these directories on the machine.

    If another user mounts, the kernel insists on nosuid and nodev, and only that user may enter.
    Files of the image's root must not shut this user out, so the kernel checks permissions only if
    `default_permissions` or `allow_other` is given.
    """
    root = os.geteuid() == 0
    allow_other = root if words.allow_other is None else words.allow_other
    checked = words.default_permissions
    trusted = root and words.lower is not None
    settings: dict[str, object] = {
        "read_only": bool(words.read_only),
        "upper": Path(words.upper).absolute() if words.upper else None,
        "work": Path(words.work).absolute() if words.work else None,
        "keep": words.keep,
        "follow_symlink_parents": words.follow_symlink_parents,
        "allow_other": allow_other,
        "default_permissions": (root or allow_other) if checked is None else checked,
        "suid": trusted if words.suid is None else words.suid,
        "dev": trusted if words.dev is None else words.dev,
        "fastpath": words.fastpath,
        "threads": words.threads,
        "cache_size": words.cache_size,
        "push": words.push,
        "metacopy": words.metacopy,
        "redirect": words.redirect,
        "volatile": words.volatile,
        "overlay": words.lower is not None,
        "owners": _owners_of(words),
        "static_nlink": words.static_nlink,
        "xattrs": words.xattrs,
        "ignored": tuple(words.ignored),
        "kernel_options": tuple(words.kernel),
    }
    settings.update(flags)
    return MountOptions(**settings)  # type: ignore[arg-type]


def image_options_of(words: Words) -> ImageOptions:
    from fusemount.cli.arguments import image_options

    marks = UserMarks(words.userxattr, words.override_stat)
    chosen = image_options(words.platform, words.max_unpacked, verify=words.verify)
    return replace(chosen, marks=marks, unpacking=words.unpacking)


def _owners_of(words: Words) -> Owners:
    otherwise = 0 if words.squash_root else -1
    squash = (otherwise if n < 0 else n for n in (words.squash_uid, words.squash_gid))
    return Owners(words.uids, words.gids, *squash)
