r"""Law: words of `-o` that only mounts of directories have, as overlayfs and fuse-overlayfs(1) do.

Such a mount is asked for by `lowerdir=`, by programs that know overlayfs' words and not ours: here
a word that nobody knows is no error, but goes to the log.  In the values of the three directories a
backslash takes the next character as it is.
"""

from __future__ import annotations

from fusemount.cli.mountoptions import Words, take, unescaped
from fusemount.errors import UsageError
from fusemount.settings import IdRange

# Words that say nothing to us: how another implementation goes about it, or what is so anyway.
_KNOWN = frozenset(
    ("index", "nfs_export", "xino", "uuid", "verity", "override_creds",
     "nooverride_creds", "noacl", "xattr_permissions", "plugins",
     "clone_fd", "max_idle_threads", "timeout", "threaded", "mountopt", "ino32_t", "context",
     "fscontext", "defcontext", "rootcontext", "seclabel", "big_writes", "use_ino", "readdir_ino",
     "kernel_cache", "auto_cache", "entry_timeout", "attr_timeout", "negative_timeout", "max_read",
     "max_write", "hard_remove", "direct_io")
)  # fmt: skip


def overlay_words(raw: list[str]) -> Words:
    """Of a mount with `lowerdir=`; words are still escaped. Raises UsageError."""
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
        words.squash_root = True  # whichever of the two is not named
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
    """`DISK:SHOWN:COUNT[:...]`; a colon in front is podman's."""
    numbers = [_number(word, text) for text in value.removeprefix(":").split(":")]
    if not numbers or len(numbers) % 3:
        raise UsageError(f"-o {word}: expected ID:MAPPED-ID:COUNT[:...]")
    return tuple(zip(*[iter(numbers)] * 3, strict=True))
