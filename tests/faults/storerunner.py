"""Law: runs the store's verbs, and readers of layers in place, in forked processes that may be
killed; modules are loaded already.

    runner = Runner(environment, log)
    ended = runner(["rm", root, "a:1"])      Ended(code, line) of the command

Request and answer are one line of JSON each.  A child that was killed has a negative code.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))


@dataclass(frozen=True)
class Ended:
    code: int
    line: str = ""


def _read(base: Path, image: str, *diff_ids: str) -> None:
    """All of the image's layers, whose tars have these SHA-256."""
    from hashlib import sha256

    from inplace import opened

    from fusemount.settings import Directories

    with opened(image, Directories(base / "cache", base / "state", base / "run")) as layers:
        found = tuple(sha256(b"".join(layer.tar.pieces())).hexdigest() for layer in layers)
    assert found == diff_ids, found


def _verbs() -> dict[str, Callable[..., object]]:
    from storing import load, save
    from transferring import pulled, pushed

    from fusemount.imagename import parse_name
    from fusemount.layer.chunkcache import evict
    from fusemount.store import Store
    from fusemount.store.removal import prune, remove

    return {
        "pull": lambda root, name: pulled(Store(root, create=True), name),
        "push": lambda root, name, where: pushed(Store(root, create=True), name, where),
        "load": lambda root, path: load(Store(root, create=True), Path(path)),
        "tag": lambda root, old, new: Store(root, create=True).tag(old, parse_name(new)),
        "rm": lambda root, text: remove(Store(root, create=True), text),
        "prune": lambda root: prune(Store(root, create=True)),
        "read": _read,
        "evict": lambda base, *_: evict(base / "cache" / "chunks", 0),
        "save": lambda root, text, form, path: save(Store(root), text, form, Path(path)),
    }


def _child(verbs: dict[str, Callable[..., object]], words: Sequence[str], told: int) -> None:
    from fusemount.errors import ImgmountError

    code, line = 70, ""
    try:
        verbs[words[0]](Path(words[1]), *words[2:])
        code = 0
    except ImgmountError as error:
        code, line = error.exit_code, str(error)
    except BaseException as error:  # the user would see a traceback
        import traceback

        line = "".join(traceback.format_exception(error))
    finally:
        os.write(told, json.dumps([code, line]).encode())
        os._exit(0)


def _serve() -> None:
    import fusemount.sources.docker_archive  # noqa: F401

    verbs = _verbs()
    for line in sys.stdin:
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(read)
            _child(verbs, json.loads(line), write)
        os.close(write)
        with os.fdopen(read, "rb") as told:
            answer = told.read().decode()
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        print(answer or json.dumps([status, ""]), flush=True)


class Runner:
    """The test's side; close() ends it."""

    def __init__(self, environment: Mapping[str, str], log: Path) -> None:
        self._log = log
        with open(log, "wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, __file__],
                env=dict(environment),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    def __call__(self, words: Sequence[str | Path]) -> Ended:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps([str(word) for word in words]) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, f"the runner has ended: {self._log.read_text()[-2000:]}"
        return Ended(*json.loads(answer))

    def close(self) -> None:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()


if __name__ == "__main__":
    _serve()
