"""Law: works out the command of `run`, its environment and its user, from the image's config and
the flags.

No function does I/O: files are passed in as text.  The rules are docker's; each function names
their source.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field
from pathlib import Path

from fusemount.dataclass import dataclass
from fusemount.errors import UsageError
from fusemount.image.fields import shown

# dockerd, oci/defaults.go DefaultPathEnvUnix
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_ID_MAX = 2**31 - 1  # moby/sys/user: maxID
_ID_DIGITS = 10


@dataclass(frozen=True)
class Volume:
    """`-v HOST:CONTAINER[:ro]`. host: absolute. container: absolute."""

    host: Path
    container: str
    read_only: bool = False


@dataclass(frozen=True)
class RunOptions:
    """`imgmount run`'s flags. entrypoint: None if not given, "" for none. environment: K=V or K.

    inherited: the caller's environment, from which a K without a value takes its value.
    """

    arguments: tuple[str, ...] = ()
    volumes: tuple[Volume, ...] = ()
    environment: tuple[str, ...] = ()
    inherited: Mapping[str, str] = field(default_factory=dict)
    working_dir: str | None = None
    user: str | None = None
    entrypoint: str | None = None
    hostname: str | None = None
    read_only: bool = False


@dataclass(frozen=True)
class RunAs:
    """The ids that the command runs with; groups: the supplementary ones."""

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    home: str = "/"


@dataclass(frozen=True)
class Command:
    """argv[0] is looked up in the environment's PATH, inside the image."""

    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    working_dir: str = "/"


def merged_argv(
    entrypoint: Sequence[str] | None, cmd: Sequence[str] | None, options: RunOptions
) -> tuple[str, ...]:
    """Arguments replace Cmd and follow Entrypoint; `--entrypoint` drops the image's Cmd as well.

    Source: moby, daemon/commit.go merge(), and docker/cli's opts.  Raises UsageError if the result
    is empty.
    """
    tail: Sequence[str] = options.arguments
    if options.entrypoint is None:
        head: Sequence[str] = entrypoint or ()
        tail = tail or cmd or ()
    else:
        head = (options.entrypoint,) if options.entrypoint else ()
    argv = (*head, *tail)
    if not argv or not argv[0]:
        raise UsageError("no command: the image names none, so give one after it")
    return argv


def merged_environment(
    image: Iterable[str],
    flags: Iterable[str],
    ours: Mapping[str, str],
    *,
    hostname: str,
    terminal: bool,
) -> dict[str, str]:
    """PATH, HOSTNAME and TERM (on a terminal), then the image's Env, then `-e`; later ones win.

    `-e K` takes the value from our own environment (ours), and removes K if it is not there
    (docker/cli opts/env.go).  HOME is not set here: unless the image or a flag sets it, it is the
    user's (runc, libcontainer/init_linux.go).
    """
    environment = {"PATH": DEFAULT_PATH, "HOSTNAME": hostname}
    if terminal:
        environment["TERM"] = ours.get("TERM", "xterm")
    for word in image:
        key, equals, value = word.partition("=")
        if key and equals:
            environment[key] = value
    for word in flags:
        key, equals, value = word.partition("=")
        if not key or "\0" in word:
            raise UsageError(f"-e {word!r}: expected NAME or NAME=VALUE")
        if equals:
            environment[key] = value
        elif key in ours:
            environment[key] = ours[key]
        else:
            environment.pop(key, None)
    return environment


def parse_volume(text: str) -> Volume:
    """`HOST:CONTAINER[:OPTIONS]`; a relative HOST starts with a dot, as in docker."""
    parts = text.split(":")
    if len(parts) not in (2, 3) or not all(parts):
        raise UsageError(f"-v {text!r}: expected HOST:CONTAINER[:ro]")
    host, container = parts[0], parts[1]
    words = parts[2].split(",") if len(parts) == 3 else []
    # z and Z relabel for SELinux, which a FUSE mount does not need; the others are the defaults
    if not set(words) <= {"ro", "rw", "z", "Z", "rprivate", "private", "delegated", "cached"}:
        raise UsageError(f"-v {text!r}: unknown option {parts[2]!r}")
    if not host.startswith(("/", ".")):
        raise UsageError(f"-v {text!r}: no named volumes here: HOST is a path (./{host}?)")
    if not container.startswith("/") or os.path.normpath(container) in ("/", "//"):
        raise UsageError(f"-v {text!r}: CONTAINER must be an absolute path other than /")
    return Volume(Path(host).absolute(), os.path.normpath(container), "ro" in words)


def resolve_user(spec: str, passwd: str, group: str) -> RunAs:
    """`USER[:GROUP]`, names or numbers, by the image's own /etc/passwd and /etc/group.

    A number is an id, whatever names there are, and need not have an entry.  There are
    supplementary groups only if GROUP is left out.  Without USER the uid is 0.  Source:
    moby/sys/user GetExecUser.  Raises UsageError for a name without an entry.
    """
    user, _, wanted_group = spec.partition(":")
    entry = _find(_records(passwd, numbers=2), user or "0")
    name, home = "", "/"
    if entry:
        uid, gid = _number(entry[2], "user", "passwd"), _number(entry[3], "group", "passwd")
        name, home = entry[0], "".join(entry[5:6]) or "/"
    else:
        uid, gid = _number(user or "0", "user", "passwd"), 0
    groups = list(_records(group, numbers=1))
    if not wanted_group:
        of_name = [g for g in groups if name and name in "".join(g[3:4]).split(",")]
        more = (_number(g[2], "group", "group") for g in of_name)
        return RunAs(uid, gid, tuple(dict.fromkeys(more)), home)
    found = _find(groups, wanted_group)
    gid = _number(found[2] if found else wanted_group, "group", "group")
    return RunAs(uid, gid, (), home)


def _records(text: str, numbers: int) -> list[list[str]]:
    """Lines of passwd(5) (numbers=2: uid and gid) or group(5) (1: gid). Fields behind the numbers
    may be missing, as for docker; a line without its numbers is skipped, as getpwent(3) does."""
    records = []
    for line in text.split("\n"):
        record = line.strip().split(":")
        ids = record[2 : 2 + numbers]
        if len(ids) == numbers and all(_id(n) is not None for n in ids):
            records.append(record)
    return records


def _is_number(text: str) -> bool:
    """As strconv.Atoi of Go takes it: a sign, and zeros before."""
    return re.fullmatch(r"\+?[0-9]+", text) is not None


def _id(text: str) -> int | None:
    """The ID that the text is; None: too large, or no number."""
    digits = text.lstrip("+0") or "0"  # int() refuses thousands of zeros
    if not _is_number(text) or len(digits) > _ID_DIGITS or int(digits) > _ID_MAX:
        return None
    return int(digits)


def _find(records: Iterable[list[str]], wanted: str) -> list[str] | None:
    """The first record with the wanted number; with the wanted name, if it is no number."""
    number = _id(wanted)
    for record in records:
        if record[0] == wanted if number is None else _id(record[2]) == number:
            return record
    return None


def _number(text: str, kind: str, file: str) -> int:
    if not _is_number(text):
        raise UsageError(f"no {kind} {text!r} in the image's /etc/{file}")
    number = _id(text)
    if number is None:
        raise UsageError(f"{kind} {shown(text)}: must be at most {_ID_MAX}")
    return number


def candidates(program: str, path: str) -> list[str]:
    """The paths that execvp(3) would try; for a name with a slash only the name itself."""
    if "/" in program:
        return [program]
    return [os.path.join(directory or ".", program) for directory in path.split(":")]
