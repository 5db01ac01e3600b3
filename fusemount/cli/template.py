r"""Fills the part of Go's templates that is common behind `--format`.

Law: all other templates are a UsageError that names the reason.

    {{.A.B}}  {{.}}  {{json .A}}  {{index .A 0 "key"}}  {{len .A}}  {{join .A ", "}}  {{.A | json}}
    {{upper .A}}  {{lower .A}}  {{title .A}}  {{split .A ":"}}  {{truncate .A 12}}  {{- … -}}

(text/template, and docker's cli/templates/templates.go.)  There are no conditions, loops and
variables; `--json` and jq can do these.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fusemount.errors import UsageError

NO_VALUE = "<no value>"
NUMBER_MAX = 19  # digits, as many as a 64-bit number has
NESTED_MAX = 50  # opening parentheses of one action
_ACTION = re.compile(r"\{\{(-(?=\s))?(.*?)((?<=\s)-)?\}\}", re.DOTALL)
_TOKEN = re.compile(
    r'\s*(?:(?P<string>"(?:[^"\\]|\\.)*"|`[^`]*`)|(?P<number>-?\d+)|(?P<chain>(?<=\))(?:\.[\w-]+)+)'
    r"|(?P<field>(?:\.[\w-]+)+|\.)"
    r"|(?P<word>[$\w]+)|(?P<sign>[()|])|(?P<rest>\S.*))"
)
_Value = Callable[[Any], Any]  # computes a value from the object that fills the template


class Map(dict[str, Any]):
    """A map with arbitrary keys (labels), so that a missing key is no error."""


class Struct(dict[str, Any]):
    """An object with more fields than it prints.  empty: these fields and their values."""

    def __init__(self, fields: Mapping[str, Any], empty: Mapping[str, Any]) -> None:
        super().__init__(fields)
        self.empty = empty


class Nil(list[Any]):
    """Go's nil slice: prints like an empty slice, and is null in JSON."""


class Template:
    """A parsed template.

    Making it raises UsageError for wrong syntax, filling it for fields that are missing.
    """

    def __init__(self, text: str) -> None:
        self.fields: set[str] = set()  # the first name of each path
        self._parts: list[str | _Value] = []
        at, trim = 0, False
        for match in _ACTION.finditer(text):
            before = text[at : match.start()]
            self._literal(before, trim, match[1] is not None)
            if not match[2].strip().startswith("/*"):
                self._parts.append(_Parser(match[2], self.fields).value())
            at, trim = match.end(), match[3] is not None
        self._literal(text[at:], trim, False)

    def _literal(self, text: str, left: bool, right: bool) -> None:
        if "{{" in text:
            raise UsageError(f"--format: {text[text.index('{{') :]!r}: no }}}} closes it")
        text = text.lstrip() if left else text
        self._parts.append(text.rstrip() if right else text)

    def fill(self, value: Any) -> str:
        return "".join(
            part if isinstance(part, str) else printed(part(value)) for part in self._parts
        )


class _Parser:
    """Parses one action: a command, or several commands with a pipe between them."""

    def __init__(self, text: str, fields: set[str]) -> None:
        self._text, self._fields = text.strip(), fields
        self._tokens = [
            (match.lastgroup or "", match[match.lastgroup or 0])
            for match in _TOKEN.finditer(self._text)
        ]

    def value(self) -> _Value:
        if self._text.count("(") > NESTED_MAX:
            raise self._error("too many parentheses")
        found = self._pipeline()
        if self._tokens:
            raise self._error(f"{self._tokens[0][1]!r} is not expected there")
        return found

    def _error(self, why: str) -> UsageError:
        message = f"--format: {{{{{self._text}}}}}: {why}"
        return UsageError(message if message.isprintable() else repr(message)[1:-1])

    def _pipeline(self) -> _Value:
        found = self._command(None)
        while self._tokens and self._tokens[0][1] == "|":
            self._tokens.pop(0)
            found = self._command(found)
        return found

    def _command(self, last: _Value | None) -> _Value:
        if not self._tokens:
            raise self._error("there is nothing in it")
        kind, text = self._tokens[0]
        if kind != "word" or text in ("true", "false", "nil"):
            if last is not None:
                raise self._error(f"{text!r} takes no argument")
            return self._operand()
        self._tokens.pop(0)
        if text not in _FUNCTIONS:
            raise self._error(
                f"{text!r} is not known here; there are {', '.join(_FUNCTIONS)} (or take --json)"
            )
        arguments = []
        while self._tokens and self._tokens[0][1] not in ("|", ")"):
            arguments.append(self._operand())
        if last is not None:
            arguments.append(last)
        return self._call(text, arguments)

    def _call(self, word: str, arguments: Sequence[_Value]) -> _Value:
        function, least, most = _FUNCTIONS[word]
        if not least <= len(arguments) <= most:
            raise self._error(f"{word} takes {least} arguments, not {len(arguments)}")

        def call(value: Any) -> Any:
            given = [argument(value) for argument in arguments]
            try:
                return function(*given)
            except (TypeError, ValueError, LookupError, AttributeError) as error:
                raise self._error(f"{word}: {error}") from None

        return call

    def _operand(self) -> _Value:
        kind, text = self._tokens.pop(0)
        if kind == "field":
            return self._field([key for key in text.split(".") if key])
        if kind == "string":
            constant = self._string(text)
            return lambda _: constant
        if kind == "number":
            if len(text) > NUMBER_MAX:
                raise self._error("a number with too many digits")
            number = int(text)
            return lambda _: number
        if text == "(":
            found = self._pipeline()
            if not self._tokens or self._tokens.pop(0)[1] != ")":
                raise self._error("no ) closes it")
            if self._tokens and self._tokens[0][0] == "chain":
                below = self._look(self._tokens.pop(0)[1].split(".")[1:])
                return lambda value: below(found(value))
            return found
        if kind == "word" and text in ("true", "false"):
            return lambda _: text == "true"
        raise self._error(f"{text!r} is not known here (take --json)")

    def _string(self, text: str) -> str:
        if text[0] == "`":
            return text[1:-1]
        try:
            return str(json.loads(text))
        except ValueError:
            raise self._error(f"{text} is no string") from None

    def _field(self, path: Sequence[str]) -> _Value:
        self._fields.update(path[:1])
        return self._look(path)

    def _look(self, path: Sequence[str]) -> _Value:
        def look(value: Any) -> Any:
            for i, key in enumerate(path):
                if not isinstance(value, dict):
                    above = "." + ".".join(path[:i])
                    raise self._error(f"{above} is {_kind(value)}: it has no .{key}")
                if isinstance(value, Struct) and key not in value and key in value.empty:
                    value = value.empty
                if key not in value and not isinstance(value, Map):
                    there = ", ".join(f".{name}" for name in list(value)[:40])
                    raise self._error(f"there is no .{'.'.join(path[: i + 1])}, only {there}")
                value = value.get(key)
                if value is None and i + 1 < len(path):
                    raise self._error(f".{'.'.join(path[: i + 1])} is not there")
            return value

        return look


def _kind(value: Any) -> str:
    names = {str: "a text", bool: "a truth value", list: "a list", int: "a number"}
    return names.get(type(value), "a value")


def printed(value: Any) -> str:
    """The value as Go's %v prints it."""
    if isinstance(value, str):
        return value
    if value is None:
        return NO_VALUE
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "map[" + " ".join(f"{k}:{printed(value[k])}" for k in sorted(value)) + "]"
    if isinstance(value, list | tuple):
        return "[" + " ".join(printed(each) for each in value) + "]"
    return str(value)


def as_json(value: Any) -> str:
    if isinstance(value, Nil):
        return "null"
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        if isinstance(value, dict):
            value = value.get(str(key), "")
        elif not isinstance(key, int) or isinstance(value, str):
            raise TypeError(f"{printed(value)[:40]!r} has no index {key!r}")
        elif not 0 <= key < len(value):
            raise LookupError(f"index {key} is out of range: there are {len(value)}")
        else:
            value = value[key]
    return value


def _join(values: Sequence[str], separator: str) -> str:
    return separator.join(map(printed, values))


def _length(value: Any) -> int:
    return len(value.encode()) if isinstance(value, str) else len(value)


def _truncate(text: str, size: int) -> str:
    return text[:size]


# word -> (function, least number of arguments, greatest number)
_FUNCTIONS: dict[str, tuple[Callable[..., Any], int, int]] = {
    "json": (as_json, 1, 1),
    "index": (_index, 1, 9),
    "len": (_length, 1, 1),
    "join": (_join, 2, 2),
    "split": (lambda text, separator: text.split(separator), 2, 2),
    "upper": (lambda text: text.upper(), 1, 1),
    "lower": (lambda text: text.lower(), 1, 1),
    "title": (lambda text: re.sub(r"\b\w", lambda m: m[0].upper(), text), 1, 1),
    "truncate": (_truncate, 2, 2),
}
