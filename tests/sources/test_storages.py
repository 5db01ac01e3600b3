"""Checks where docker and podman keep their images, according to their settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from fusemount.errors import ImgmountError
from fusemount.reference import Reference, parse_reference
from fusemount.sources import storages
from fusemount.sources.storages import located


def reference(text: str) -> Reference:
    return parse_reference(text, lambda _: False)


@pytest.fixture
def etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that is used in place of /etc/docker and /etc/containers."""
    monkeypatch.setattr(storages, "_DAEMON_JSON", str(tmp_path / "daemon.json"))
    monkeypatch.setattr(storages, "_STORAGE_CONF", tuple(f"{tmp_path}/{n}.conf" for n in "ab"))
    return tmp_path


def test_what_was_said_stays(etc: Path) -> None:
    (etc / "daemon.json").write_text('{"data-root": "/other"}')
    for text in ("docker:[/d]u", "containers-storage:[/g]u", "u.tar"):
        assert located(reference(text), {}, 0) == reference(text)


@pytest.mark.parametrize(
    ("settings", "root"),
    [
        (None, "/var/lib/docker"),
        ("{}", "/var/lib/docker"),
        ('{"data-root": "/d"}', "/d"),
        ('{"graph": "/g"}', "/g"),
    ],
)
def test_docker(etc: Path, settings: str | None, root: str) -> None:
    if settings is not None:
        (etc / "daemon.json").write_text(settings)
    assert located(reference("docker:u"), {"HOME": str(etc)}, 0) == reference(f"docker:[{root}]u")
    assert located(reference("docker:u"), {"HOME": str(etc)}, 7).path == Path(root)
    (etc / ".local/share/docker").mkdir(parents=True)
    own = located(reference("docker:u"), {"HOME": str(etc)}, 7)
    assert own.path == etc / ".local/share/docker"


def test_containers_without_settings(etc: Path) -> None:
    asked = reference("containers-storage:u")
    assert located(asked, {}, 0) == reference("containers-storage:[/var/lib/containers/storage]u")
    own = located(asked, {"HOME": "/h"}, 7)
    assert own.path == Path("/h/.local/share/containers/storage")
    own = located(asked, {"HOME": "/h", "XDG_DATA_HOME": "/x", "STORAGE_DRIVER": "vfs"}, 7)
    assert (own.path, own.driver) == (Path("/x/containers/storage"), "vfs")


def test_storage_conf(etc: Path) -> None:
    (etc / "b.conf").write_text(
        '[storage]\ndriver = "vfs"\ngraphroot = "/g"\nrootless_storage_path = "/r/$UID"\n'
        '[storage.options]\nadditionalimagestores = ["/m", "/n"]\n'
    )
    asked = reference("containers-storage:u")
    found = located(asked, {}, 0)
    assert (found.path, found.driver, found.more) == (Path("/g"), "vfs", (Path("/m"), Path("/n")))
    assert reference(found.spelled) == found
    assert located(asked, {"HOME": str(etc)}, 7) == reference("containers-storage:[/r/7]u")
    (etc / "a.conf").write_text('[storage]\ngraphroot = "/first"\n')
    assert located(asked, {}, 0) == reference("containers-storage:[/first]u")
    (etc / ".config/containers").mkdir(parents=True)
    (etc / ".config/containers/storage.conf").write_text('[storage]\ngraphroot = "$HOME/own"\n')
    own = located(asked, {"HOME": str(etc)}, 7)
    assert own.path == etc / "own"
    environment = {"CONTAINERS_STORAGE_CONF": str(etc / "b.conf"), "HOME": str(etc)}
    assert located(asked, environment, 7).path == Path("/g")


@pytest.mark.parametrize(("name", "text"), [("daemon.json", "{"), ("a.conf", "[storage")])
def test_settings_that_cannot_be_read(etc: Path, name: str, text: str) -> None:
    (etc / name).write_text(text)
    asked = "docker:u" if name == "daemon.json" else "containers-storage:u"
    with pytest.raises(ImgmountError, match=f"{name}: not "):
        located(reference(asked), {}, 0)
