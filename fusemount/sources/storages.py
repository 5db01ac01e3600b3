"""Law: finds out from their settings where docker and podman keep images on this machine.

docker: /etc/docker/daemon.json (dockerd's --config-file); for a user, rootless docker's directory
if there is one.  podman: storage.conf(5), in the order of containers/storage's types/options.go.
"""

from __future__ import annotations

import json
import os
import pwd
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fusemount.errors import ImgmountError
from fusemount.reference import CONTAINERS_STORAGE, DOCKER, NOT_GIVEN, Reference

_DAEMON_JSON = "/etc/docker/daemon.json"
_DOCKER = "/var/lib/docker"
_CONTAINERS = "/var/lib/containers/storage"
_ALIASES = {"overlay2": "overlay"}  # names of drivers
_STORAGE_CONF = ("/etc/containers/storage.conf", "/usr/share/containers/storage.conf")


def located(reference: Reference, environment: Mapping[str, str], uid: int) -> Reference:
    """The reference with its store's root; found out if the user did not give one.

    Raises ImgmountError if settings cannot be read.
    """
    if reference.path != NOT_GIVEN:
        return reference
    if reference.transport == DOCKER:
        return replace(reference, path=_docker_root(environment, uid))
    if reference.transport == CONTAINERS_STORAGE:
        return _with_storage(reference, environment, uid)
    return reference


def _docker_root(environment: Mapping[str, str], uid: int) -> Path:
    if uid != 0:
        own = _data_home(environment) / "docker"
        if own.exists():
            return own
    path = Path(_DAEMON_JSON)
    text = _read(path)
    if text is not None:
        try:
            settings = json.loads(text)
        except ValueError as error:
            raise ImgmountError(f"{path}: not JSON: {error}") from error
        settings = settings if isinstance(settings, dict) else {}
        root = settings.get("data-root") or settings.get("graph")  # graph: docker before 17.05
        if isinstance(root, str) and root.startswith("/"):
            return Path(root)
    return Path(_DOCKER)


def _with_storage(reference: Reference, environment: Mapping[str, str], uid: int) -> Reference:
    asked = environment.get("CONTAINERS_STORAGE_CONF")
    settings, root = _first_settings(*((asked,) if asked else _STORAGE_CONF)), _CONTAINERS
    if uid != 0:
        root = _expanded(settings.get("rootless_storage_path"), environment, uid)
        root = root or str(_data_home(environment) / "containers/storage")
        if not asked:
            config = environment.get("XDG_CONFIG_HOME") or f"{_home(environment)}/.config"
            settings = _first_settings(f"{config}/containers/storage.conf")
    configured = _expanded(settings.get("graphroot"), environment, uid)
    options = settings.get("options")
    more = options.get("additionalimagestores") if isinstance(options, Mapping) else None
    stores = [settings.get("imagestore"), *(more if isinstance(more, list) else ())]
    driver = environment.get("STORAGE_DRIVER") or settings.get("driver")
    return replace(
        reference,
        path=Path(configured or root),
        more=tuple(Path(each) for each in stores if isinstance(each, str) and each[:1] == "/"),
        driver=_ALIASES.get(driver, driver) if isinstance(driver, str) else "",
    )


def _first_settings(*paths: str) -> dict[str, Any]:
    """The table [storage] of the first file that exists; empty if none does."""
    for path in paths:
        text = _read(Path(path))
        if text is None:
            continue
        try:
            storage = tomllib.loads(text).get("storage")
        except tomllib.TOMLDecodeError as error:
            raise ImgmountError(f"{path}: not TOML: {error}") from error
        return storage if isinstance(storage, dict) else {}
    return {}


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ImgmountError(f"{path}: {getattr(error, 'strerror', None) or error}") from error


def _expanded(value: object, environment: Mapping[str, str], uid: int) -> str:
    """A path with $HOME, $USER and $UID replaced (storage.conf(5)); "" if it is not absolute."""
    if not isinstance(value, str):
        return ""
    for name, meaning in (
        ("$HOME", str(_home(environment))),
        ("$UID", str(uid)),
        ("$USER", environment.get("USER", "")),
    ):
        value = value.replace(name, meaning)
    return value if value.startswith("/") else ""


def _home(environment: Mapping[str, str]) -> Path:
    return Path(environment.get("HOME") or pwd.getpwuid(os.getuid()).pw_dir)


def _data_home(environment: Mapping[str, str]) -> Path:
    return Path(environment.get("XDG_DATA_HOME") or _home(environment) / ".local/share")
