r"""Parses the words of `-o` for mounts of directories, as overlayfs and fuse-overlayfs(1) do.

Law: here an unknown word is no error; it goes to the log.  `lowerdir=` asks for such a mount, and
the programs that use it give words of overlayfs, not ours.

In the values of `lowerdir=`, `upperdir=` and `workdir=` a backslash escapes the next character.
"""

from __future__ import annotations

from fusemount.cli.mountoptions import Words, take, unescaped
from fusemount.errors import UsageError
from fusemount.settings import IdRange

# Words without an effect here: they tune another implementation, or ask for what is always so.
_KNOWN = frozenset(
    ("index", "nfs_export", "xino", "uuid", "verity", "override_creds",
     "nooverride_creds", "noacl", "xattr_permissions", "plugins",
     "clone_fd", "max_idle_threads", "timeout", "threaded", "mountopt", "ino32_t", "context",
     "fscontext", "defcontext", "rootcontext", "seclabel", "big_writes", "use_ino", "readdir_ino",
     "kernel_cache", "auto_cache", "entry_timeout", "attr_timeout", "negative_timeout", "max_read",
     "max_write", "hard_remove", "direct_io")
)  # fmt: skip


def overlay_words(raw: list[str]) -> Words:
    """Parses the words of a mount with `lowerdir=`; raw: still escaped. Raises UsageError."""
    words = Words(remount="remount" in raw)
    for word in raw:
        if word and not _take(words, word) and not take(words, unescaped(word)):
            words.ignored.append(unescaped(word))
    return words


def _take(words: Words, word: str) -> bool:
    key, _, value = word.partition("=")
    if key == "lowerdir" and value:
        words.lower = value
    elif key in ("upperdir", "workdir") and value:
        setattr(words, key.removesuffix("dir"), _plain(value))
    elif key in ("uidmapping", "gidmapping") and value:
        setattr(words, key.removesuffix("mapping") + "s", _ranges(word, value))
    elif word == "squash_to_root":
        words.squash_root = True  # squash_to_uid= and squash_to_gid= win over it
    elif key in ("squash_to_uid", "squash_to_gid"):
        setattr(words, key.replace("_to", ""), _number(word, value))
    elif word == "static_nlink":
        words.static_nlink = True
    elif word == "noxattrs" or (key == "noxattrs" and value.isdecimal()):
        words.xattrs = value.strip("0") == "" and word != "noxattrs"
    elif key == "fsync" and value in ("0", "1"):
        words.volatile = value == "0"
    elif key in ("lowerdir", "upperdir", "workdir", "fsync"):
        raise UsageError(f"-o {key}=: bad value {value!r}")
    else:
        return key in _KNOWN
    return True


def _plain(value: str) -> str:
    out, characters = "", iter(value)
    for c in characters:
        out += next(characters, "\\") if c == "\\" else c
    return out


def _number(word: str, text: str) -> int:
    if text.isascii() and text.isdecimal() and int(text[:11]) < 2**32:
        return int(text)
    raise UsageError(f"-o {word}: bad value {text!r}: a number below 2^32")


def _ranges(word: str, value: str) -> tuple[IdRange, ...]:
    """Parses `DISK:SHOWN:COUNT[:...]`; podman puts a colon before it."""
    numbers = [_number(word, text) for text in value.removeprefix(":").split(":")]
    if not numbers or len(numbers) % 3:
        raise UsageError(f"-o {word}: expected ID:MAPPED-ID:COUNT[:...]")
    return tuple(zip(*[iter(numbers)] * 3, strict=True))
