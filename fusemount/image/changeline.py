r"""Law: applies lines of a Dockerfile (`--change`) to the `config` object of a config, without I/O.

The instructions are those of `docker commit --change`: CMD and ENTRYPOINT with a JSON array or a
line for /bin/sh, ENV, LABEL, EXPOSE, VOLUME, USER, WORKDIR; and STOPSIGNAL, which `docker commit`
does not have.  Words are split and quoted as in a Dockerfile, with `\` to escape.  $NAME, ${NAME},
${NAME:-word} and ${NAME:+word} are replaced by values of ENV.
`CMD []` removes the command, as it does in a Dockerfile; `docker commit` would use the container's.
Source: docker's Dockerfile reference; moby, builder/dockerfile.
"""

from __future__ import annotations

import json
import posixpath
import re
import signal
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

from fusemount.errors import UsageError
from fusemount.image.fields import shown

Edited = MutableMapping[str, Any]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PORT = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?(?:/(tcp|udp|sctp))?", re.IGNORECASE)
_SHELL = ["/bin/sh", "-c"]


def apply_changes(container: Mapping[str, Any], lines: list[str]) -> dict[str, Any]:
    """A new `config` object with all lines applied, in order. Raises UsageError."""
    edited = dict(container)
    if isinstance(edited.get("Env"), str):  # docker < 1.6
        edited["Env"] = [edited["Env"]]
    commands: set[str] = set()
    for line in lines:
        word, _, rest = line.strip().partition(" ")
        word, rest = word.upper(), rest.strip()
        edit = _EDITS.get(word)
        if edit is None:
            given = shown(word) or "nothing"
            raise UsageError(f"--change {line!r}: {given}: one of {', '.join(_EDITS)}")
        try:
            line.encode()
            edit(edited, rest)
        except UnicodeEncodeError:
            raise UsageError(f"--change {line!r}: not UTF-8") from None
        except _Bad as error:
            raise UsageError(f"--change {line!r}: {error}") from None
        if word == "ENTRYPOINT" and "CMD" not in commands:
            edited.pop("Cmd", None)  # it belongs to the old entrypoint
        commands.add(word)
    return edited


class _Bad(Exception):
    """The reason why a line is refused; it ends the message that quotes the line."""


# ---- words ------------------------------------------------------------------------------------


class _Words:
    """Splits a line at spaces outside of quotes, and replaces variables.

    In '…' nothing is replaced.  In "…" variables are, and \\ escapes ", $ and \\.  Outside of
    quotes \\ escapes any character.
    """

    def __init__(self, text: str, env: Mapping[str, str]) -> None:
        self._text, self._at, self._env = text, 0, env

    def all(self, split: bool = True) -> list[str]:
        words: list[str] = []
        while self._at < len(self._text):
            if split and self._text[self._at] in " \t":
                self._at += 1
                continue
            words.append(self._word(split))
        return words

    def _word(self, split: bool) -> str:
        word, quote = "", ""
        while self._at < len(self._text):
            c = self._text[self._at]
            if not quote and split and c in " \t":
                break
            self._at += 1
            if c == quote:
                quote = ""
            elif quote == "'":
                word += c
            elif c in "'\"" and not quote:
                quote = c
            elif c == "\\":
                word += self._escaped(quote)
            elif c == "$":
                word += self._variable()
            else:
                word += c
        if quote:
            raise _Bad(f"a {quote} without its end")
        return word

    def _escaped(self, quote: str) -> str:
        if self._at == len(self._text):
            return "\\"
        c = self._text[self._at]
        if quote and c not in '"$\\':
            return "\\"
        self._at += 1
        return c

    def _variable(self) -> str:
        if self._text[self._at : self._at + 1] == "{":
            end = self._text.find("}", self._at)
            if end < 0:
                raise _Bad("${ without its }")
            body = self._text[self._at + 1 : end]
            self._at = end + 1
            return self._substituted(body)
        found = _NAME.match(self._text, self._at)
        if found is None:
            return "$"
        self._at = found.end()
        return self._env.get(found[0], "")

    def _substituted(self, body: str) -> str:
        name, operator, word = body, "", ""
        for mark in (":-", ":+"):
            if mark in body:
                name, operator, word = (*body.partition(mark),)
                break
        if not _NAME.fullmatch(name):
            raise _Bad(f"{shown('${' + body + '}')}: bad substitution")
        value = self._env.get(name, "")
        if operator == ":-":
            return value or word
        return word if operator == ":+" and value else "" if operator else value


def _env_of(edited: Mapping[str, Any]) -> dict[str, str]:
    return dict(entry.partition("=")[::2] for entry in edited.get("Env") or [])


def _words(edited: Mapping[str, Any], rest: str) -> list[str]:
    return _Words(rest, _env_of(edited)).all()


def _one(edited: Mapping[str, Any], rest: str, what: str) -> str:
    """The rest of the line as one word, with its spaces."""
    (word,) = _Words(rest, _env_of(edited)).all(split=False) or [""]
    if not word:
        raise _Bad(f"needs {what}")
    return word


def _json_array(rest: str) -> list[str] | None:
    """The strings of a JSON array; None if the rest is no JSON array, but a line for the shell."""
    if not rest.startswith("["):
        return None
    try:
        value = json.loads(rest)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise _Bad("a JSON array that holds something else than strings")
    return value


# ---- instructions -----------------------------------------------------------------------------


def _command(key: str) -> Callable[[Edited, str], None]:
    def edit(edited: Edited, rest: str) -> None:
        words = _json_array(rest)
        if words is None:
            words = [*_SHELL, rest] if rest else []
        edited[key] = words or None
        if not words:
            edited.pop(key)

    return edit


def _pairs(edited: Edited, rest: str) -> dict[str, str]:
    """`KEY=VALUE KEY=VALUE`, or the old form `KEY VALUE`, whose value is the rest of the line."""
    first = rest.split(None, 1)
    if len(first) == 2 and "=" not in first[0]:
        return {first[0]: _one(edited, first[1], "a value")}
    found = {}
    for word in _words(edited, rest):
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise _Bad(f"{word!r} is not KEY=VALUE")
        found[key] = value
    if not found:
        raise _Bad("needs KEY=VALUE")
    return found


def _set_env(edited: Edited, rest: str) -> None:
    entries = {entry.partition("=")[0]: entry for entry in edited.get("Env") or []}
    entries |= {key: f"{key}={value}" for key, value in _pairs(edited, rest).items()}
    edited["Env"] = list(entries.values())


def _set_labels(edited: Edited, rest: str) -> None:
    edited["Labels"] = dict(edited.get("Labels") or {}) | _pairs(edited, rest)


def _expose(edited: Edited, rest: str) -> None:
    ports = dict(edited.get("ExposedPorts") or {})
    words = _words(edited, rest)
    if not words:
        raise _Bad("needs a port")
    for word in words:
        found = _PORT.fullmatch(word)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
        if found is None or not 0 < first <= last <= 65535:
            raise _Bad(f"{word!r} is no port: PORT[-PORT][/tcp|udp|sctp]")
        for port in range(first, last + 1):
            ports[f"{port}/{(found[3] or 'tcp').lower()}"] = {}
    edited["ExposedPorts"] = ports


def _add_volumes(edited: Edited, rest: str) -> None:
    paths = _json_array(rest)
    if paths is None:
        paths = _words(edited, rest)
    if not paths or not all(path.strip() for path in paths):
        raise _Bad("needs a path")
    edited["Volumes"] = dict(edited.get("Volumes") or {}) | {path.strip(): {} for path in paths}


def _set_user(edited: Edited, rest: str) -> None:
    edited["User"] = _one(edited, rest, "a user")


def _set_directory(edited: Edited, rest: str) -> None:
    """A relative path is joined to the present WorkingDir; an absolute one is stored unchanged."""
    path = _one(edited, rest, "a path")
    if not path.startswith("/"):
        path = posixpath.normpath(posixpath.join("/", edited.get("WorkingDir") or "/", path))
    edited["WorkingDir"] = path


def _set_stop_signal(edited: Edited, rest: str) -> None:
    name = _one(edited, rest, "a signal")
    if name.isdecimal():
        known = 0 < int(name[:9]) <= 64
    else:
        full = name.upper() if name.upper().startswith("SIG") else f"SIG{name.upper()}"
        known = full in signal.Signals.__members__ or bool(
            re.fullmatch(r"SIGRT(MIN|MAX)[+-]\d+", full)
        )
    if not known:
        raise _Bad(f"{name!r} is no signal")
    edited["StopSignal"] = name


_EDITS: dict[str, Callable[[Edited, str], None]] = {
    "CMD": _command("Cmd"),
    "ENTRYPOINT": _command("Entrypoint"),
    "ENV": _set_env,
    "EXPOSE": _expose,
    "LABEL": _set_labels,
    "STOPSIGNAL": _set_stop_signal,
    "USER": _set_user,
    "VOLUME": _add_volumes,
    "WORKDIR": _set_directory,
}
