"""Law: a client asks a daemon one question and gets one answer, over a socket beside the record of
the mount.

    RUNTIME/<pid>.sock (0600)    {"ask": "stats"}\\n  ->  {...}\\n     then the daemon hangs up

The daemon answers between two requests, and quickly.  No client can keep the mount waiting: the
daemon drops a client that takes longer than _SECONDS, at once one that sends more than
_QUESTION_BYTES, and serves at most _CLIENTS at a time.  A daemon that cannot make its socket serves
the mount without one.

The path of a socket is at most 107 bytes long (unix(7)); a directory's may be longer.  So both ends
reach the directory by a descriptor (/proc/self/fd/N).
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusemount.daemon import mountrecords
from fusemount.daemon.log import LOGGER
from fusemount.daemon.mountpoint import FSTYPE, find_mount
from fusemount.daemon.mountrecords import Record
from fusemount.errors import ImgmountError, MountpointError, NotPermitted
from fusemount.mountinfo import mounts

if TYPE_CHECKING:
    import trio

Answers = Mapping[str, Callable[[], dict[str, Any]]]

_SECONDS = 5.0
_PATIENCE = 10.0  # how long a client waits: a daemon has a free slot after _SECONDS
_QUESTION_BYTES = 64 * 1024
_ANSWER_BYTES = 16 * 1024 * 1024
_CLIENTS = 8
_BACKLOG = 32


@contextmanager
def _beside(runtime: Path, record: Record) -> Iterator[str]:
    """The socket's path, short however long the runtime directory's is. Raises OSError."""
    path = mountrecords.socket_path(runtime, record.pid)
    flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    directory = os.open(path.parent, flags)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


# ---- the daemon's end ---------------------------------------------------------------------------


@contextmanager
def listening(runtime: Path, record: Record) -> Iterator[socket.socket | None]:
    """The socket that serve_control answers on; None (and a line in the log) when there is none.

    mountrecords.forget removes its name, also after a daemon that was killed.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        yield listener if _bound(listener, runtime, record) else None


def _bound(listener: socket.socket, runtime: Path, record: Record) -> bool:
    path = mountrecords.socket_path(runtime, record.pid)
    try:
        path.unlink(missing_ok=True)  # of a daemon that had our pid and was killed
        os.fchmod(listener.fileno(), 0o600)  # before bind: the name never has another mode
        with _beside(runtime, record) as short:
            listener.bind(short)
            os.chmod(short, 0o600)  # the umask may have cleared bits
        listener.listen(_BACKLOG)
    except OSError as error:
        LOGGER.warning("%s: no statistics: %s", path, os.strerror(error.errno or 0))
        return False
    return True


async def serve_control(listener: socket.socket, answers: Answers) -> None:
    """Answers until it is cancelled. Raises nothing else, because no question may end a mount."""
    import trio

    slots = trio.Semaphore(_CLIENTS)
    with trio.socket.from_stdlib_socket(listener) as accepting:
        async with trio.open_nursery() as nursery:
            while True:
                await slots.acquire()
                try:
                    client, _ = await accepting.accept()
                except OSError as error:  # the client has left, or no descriptor is free
                    slots.release()
                    LOGGER.debug("control socket: %s", error)
                    await trio.sleep(0.1)
                    continue
                nursery.start_soon(_attend, client, answers, slots)


async def _attend(client: trio.socket.SocketType, answers: Answers, slots: trio.Semaphore) -> None:
    import trio

    try:
        with client, trio.move_on_after(_SECONDS):
            question = await _line(client)
            if question is not None:
                await trio.SocketStream(client).send_all(_answer(question, answers))
    except (OSError, trio.BrokenResourceError):
        pass  # the client did not wait
    except Exception:
        LOGGER.exception("control socket")
    finally:
        slots.release()


async def _line(client: trio.socket.SocketType) -> bytes | None:
    """The bytes before the first newline; None if there are too many, or the end comes first."""
    received = bytearray()
    while b"\n" not in received:
        chunk = await client.recv(4096)
        received += chunk
        if not chunk or len(received) > _QUESTION_BYTES:
            return None
    return bytes(received.partition(b"\n")[0])


def _answer(question: bytes, answers: Answers) -> bytes:
    try:
        asked = json.loads(question)["ask"]
        answer = answers.get(asked) if isinstance(asked, str) else None
    except (ValueError, TypeError, LookupError, RecursionError):
        answer = None
        asked = None
    if answer is None:
        reply = {"error": f"unknown question {asked!r}" if asked else "not a question"}
    else:
        reply = answer()
    return json.dumps(reply).encode() + b"\n"


# ---- the other end ------------------------------------------------------------------------------


def find_record(mountpoint: Path, runtime: Path) -> Record:
    """The record of the mount there. Raises MountpointError: no mount of imgmount, or its daemon
    is gone; NotPermitted: another user's."""
    _, entry, _ = find_mount(mountpoint)
    record = mountrecords.find(runtime, entry) if entry else None
    if record is not None:
        if record.alive:
            return record
        raise _gone(mountpoint)
    if entry is not None and entry.fstype == FSTYPE:
        raise NotPermitted(
            f"{mountpoint}: no record of it in {runtime}: only who mounted it can ask"
        )
    raise MountpointError(f"{mountpoint}: no imgmount mount is there")


def _gone(mountpoint: Path | str) -> MountpointError:
    return MountpointError(
        f"{mountpoint}: its daemon is gone; `imgmount umount {mountpoint}` clears it"
    )


def ask(runtime: Path, record: Record, question: str) -> dict[str, Any]:
    """The daemon's answer. Raises MountpointError (it is gone), NotPermitted, ImgmountError."""
    try:
        reply = json.loads(_exchange(runtime, record, question))
    except TimeoutError as error:
        raise ImgmountError(
            f"{record.mountpoint}: its daemon (process {record.pid}) does not answer"
        ) from error
    except PermissionError as error:
        raise NotPermitted(f"{record.mountpoint}: {record.user}'s mount: only they can ask"
                           ) from error  # fmt: skip
    except (OSError, ValueError) as error:
        if not record.alive or not any(mountrecords.shows(record, entry) for entry in mounts()):
            raise _gone(record.mountpoint) from error  # or it ends now, after its mount
        why = "no control socket" if isinstance(error, FileNotFoundError) else str(error)
        raise ImgmountError(
            f"{record.mountpoint}: its daemon (process {record.pid}) cannot be asked: {why}"
        ) from error
    if not isinstance(reply, dict) or "error" in reply:
        reason = reply.get("error") if isinstance(reply, dict) else reply
        raise ImgmountError(f"{record.mountpoint}: its daemon says: {reason}")
    return reply


def _exchange(runtime: Path, record: Record, question: str) -> bytes:
    """Raises OSError (TimeoutError), and ValueError for an answer that is cut off."""
    deadline = time.monotonic() + _PATIENCE
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
        link.settimeout(_PATIENCE)
        with _beside(runtime, record) as short:
            link.connect(short)
        with suppress(BrokenPipeError):  # it has hung up; its answer may still be there to read
            link.sendall(json.dumps({"ask": question}).encode() + b"\n")
        received = bytearray()
        while not received.endswith(b"\n"):
            link.settimeout(max(deadline - time.monotonic(), 0.001))
            chunk = link.recv(65536)
            if not chunk or len(received) > _ANSWER_BYTES:
                raise ValueError("its answer is cut off")
            received += chunk
    return bytes(received)
