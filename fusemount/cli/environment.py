"""Reads settings from the environment: directories, the user, the default registry, a fixed time.

Law: only `cli` reads the environment (tests/words/test_floors.py); other rooms get the values as
arguments.
"""

from __future__ import annotations

import os
from pathlib import Path

from fusemount.errors import UsageError
from fusemount.settings import Directories

_ROOT = ("/var/cache/imgmount", "/var/lib/imgmount", "/run/imgmount", "/var/lib/imgmount")
_EPOCH_MAX = 253402300799  # the last second of the year 9999


def user_id() -> int:
    """The user whose stores and directories are used.

    Inside `podman unshare` that is the user outside, who is root there by name only
    (containers/storage, pkg/unshare).
    """
    outside = os.environ.get("_CONTAINERS_ROOTLESS_UID", "")
    return int(outside) if outside.isascii() and outside.isdigit() else os.geteuid()


def directories() -> Directories:
    """The program's directories: IMGMOUNT_{CACHE,STATE,RUNTIME,ROOT}_DIR if they are set, else the
    FHS's for root, else those of XDG's base directory specification."""
    uid = user_id()
    if uid == 0:
        cache, state, runtime, store = (Path(p) for p in _ROOT)
    else:
        cache = _xdg("XDG_CACHE_HOME", "~/.cache/imgmount")
        state = _xdg("XDG_STATE_HOME", "~/.local/state/imgmount")
        runtime = _xdg("XDG_RUNTIME_DIR", _runtime_of(uid, state))
        store = _xdg("XDG_DATA_HOME", "~/.local/share/imgmount")
    return Directories(
        cache=_override("IMGMOUNT_CACHE_DIR", cache),
        state=_override("IMGMOUNT_STATE_DIR", state),
        runtime=_override("IMGMOUNT_RUNTIME_DIR", runtime),
        store=_override("IMGMOUNT_ROOT_DIR", store),
    )


def _runtime_of(uid: int, state: Path) -> str:
    """The runtime directory if XDG_RUNTIME_DIR is not set.

    It is not in /tmp, because another user could make the directory there first, and so keep this
    user from mounting anything.
    """
    given = Path("/run/user", str(uid))  # made by pam_systemd(8)
    try:
        ours = given.stat().st_uid in (uid, os.geteuid())
    except OSError:
        ours = False
    return str(given / "imgmount" if ours else state / "run")


def _xdg(variable: str, otherwise: str) -> Path:
    value = os.environ.get(variable, "")
    if value.startswith("/"):  # the specification says to ignore a relative path
        return Path(value, "imgmount")
    try:
        return Path(otherwise).expanduser()
    except RuntimeError as error:
        raise UsageError(f"no home directory: set HOME or {variable}") from error


def _override(variable: str, otherwise: Path) -> Path:
    value = os.environ.get(variable)
    return Path(value).absolute() if value else otherwise


def default_domain() -> str:
    """The registry of names without one: IMGMOUNT_DEFAULT_REGISTRY, else docker.io."""
    from fusemount.imagename import DOCKER_HUB

    return os.environ.get("IMGMOUNT_DEFAULT_REGISTRY") or DOCKER_HUB


def source_date_epoch() -> int | None:
    """SOURCE_DATE_EPOCH in seconds since 1970; None if it is not set.  Raises UsageError.

    https://reproducible-builds.org/specs/source-date-epoch/
    """
    text = os.environ.get("SOURCE_DATE_EPOCH", "")
    if not text:
        return None
    if text.isascii() and text.isdecimal() and int(text[:13]) <= _EPOCH_MAX and len(text) <= 13:
        return int(text)
    raise UsageError(f"SOURCE_DATE_EPOCH={text}: not a number of seconds since 1970")
