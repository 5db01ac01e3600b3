"""Law: turns untrusted JSON into typed values, or raises a MalformedImage that names document and
key.

JSON is read as Go reads it, because programs in Go write these documents: null means absent,
unknown keys are ignored, and half of a surrogate pair becomes a replacement character.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, TypeVar

from fusemount.digest import Digest
from fusemount.errors import MalformedImage
from fusemount.escape import quoted

DOCUMENT_BYTES_MAX = 4 << 20  # a manifest, index or config; registries take 4 MiB of a manifest
DOCUMENTS_BYTES_MAX = 64 << 20  # all documents of images that come in together: all in memory
SHOWN_MAX = 200  # characters of a name in a message
_LISTED_MAX = 20  # names in one message
DOCUMENT_DEPTH_MAX = 100  # nesting; image tools write much less
_HALF_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")

_T = TypeVar("_T")


def parse_json(data: bytes, where: str, limit: int = DOCUMENT_BYTES_MAX) -> Any:
    """Any JSON value.  Raises MalformedImage: too long, too deep, not UTF-8, not JSON."""
    if len(data) > limit:
        raise MalformedImage(f"{where}: {len(data)} bytes of JSON, the limit is {limit}")
    try:
        value = json.loads(
            data.decode("utf-8"),
            parse_constant=_no_constant,
            parse_float=_float,
            object_pairs_hook=_object,
        )
        _check(value, DOCUMENT_DEPTH_MAX)
    except RecursionError:
        raise MalformedImage(f"{where}: JSON nested more than {DOCUMENT_DEPTH_MAX} deep") from None
    except UnicodeDecodeError as error:
        raise MalformedImage(f"{where}: not UTF-8 at byte {error.start}") from None
    except ValueError as error:
        raise MalformedImage(f"{where}: not JSON: {error}") from None
    return _without_halves(value) if _HALF_SURROGATE.search(data) else value


def shown(text: str) -> str:
    """Untrusted text for a one-line message: shortened, and without control characters."""
    text = text if len(text) <= SHOWN_MAX else text[:SHOWN_MAX] + "…"
    return text if text.isprintable() else quoted(text)


def listed(names: Sequence[str]) -> str:
    """Names for a one-line message, with commas; of many names, the rest is only counted."""
    more = len(names) - _LISTED_MAX
    return ", ".join(names[:_LISTED_MAX]) + (f" and {more} more" if more > 0 else "")


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON number")


def _float(text: str) -> float:
    """Refuses a number that would be written as `Infinity`, which is no JSON; so does Go."""
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{shown(text)} is beyond the largest number")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuses an object that has one key twice, because readers differ in which value they take."""
    found = dict(pairs)
    if len(found) != len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key {shown(twice)} stands twice in an object")
    return found


def _check(value: Any, depth: int) -> None:
    if depth == 0:
        raise RecursionError
    if isinstance(value, dict):
        for each in value.values():
            if isinstance(each, dict | list):
                _check(each, depth - 1)
    elif isinstance(value, list):
        for each in value:
            if isinstance(each, dict | list):
                _check(each, depth - 1)


def _without_halves(value: Any) -> Any:
    """The value with each half of a surrogate pair replaced, because UTF-8 cannot encode it."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_without_halves(each) for each in value]
    if isinstance(value, dict):
        return {_without_halves(key): _without_halves(each) for key, each in value.items()}
    return value


def object_of(value: Any, where: str) -> Fields:
    if not isinstance(value, dict):
        raise MalformedImage(f"{where}: expected an object, found {_kind(value)}")
    return Fields(value, where)


def objects_of(value: Any, where: str) -> list[Fields]:
    if not isinstance(value, list):
        raise MalformedImage(f"{where}: expected a list, found {_kind(value)}")
    return [object_of(each, f"{where}[{i}]") for i, each in enumerate(value)]


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean"}
    return "null" if value is None else names.get(type(value), "a number")


class Fields:
    """One JSON object, read by key. A value of the wrong type raises MalformedImage."""

    def __init__(self, document: Mapping[str, Any], where: str) -> None:
        self.document = document
        self.where = where
        self._spellings: dict[str, list[str]] | None = None

    def _at(self, key: str) -> Any:
        """None where the key is absent.

        Go's encoding/json ignores case: it takes `CONFIG` for the field `config`.  If a document
        has both, docker may see another image in it than we do, under one digest.  So such a
        document is refused.
        """
        if self._spellings is None:
            self._spellings = {}
            for each in self.document:
                self._spellings.setdefault(each.casefold(), []).append(each)
        spelled = self._spellings.get(key.casefold(), [])
        if spelled not in ([], [key]):
            raise self.bad(key, f"spelled {', '.join(map(quoted, spelled))}")
        return self.document.get(key)

    def _get(self, key: str, kind: type[_T], wanted: str) -> _T | None:
        value = self._at(key)
        if value is None:
            return None
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self.bad(key, f"expected {wanted}, found {_kind(value)}")
        return value

    def bad(self, key: str, why: str) -> MalformedImage:
        return MalformedImage(f"{self.where}: {shown(key)}: {why}")

    def text(self, key: str) -> str:
        return self._get(key, str, "a string") or ""

    def flag(self, key: str) -> bool:
        return self._get(key, bool, "a boolean") or False

    def count(self, key: str) -> int:
        """A number from 0 to 2**63 - 1; absent is 0."""
        value = self._get(key, int, "a number") or 0
        if not 0 <= value < 1 << 63:
            raise self.bad(key, f"{value} is out of range")
        return value

    def texts(self, key: str) -> tuple[str, ...] | None:
        """A list of strings; None if absent.  A single string is a list of one (docker < 1.6)."""
        value = self._at(key)
        if isinstance(value, str):
            return (value,)
        values: list[Any] | None = self._get(key, list, "a list of strings")
        if values is None:
            return None
        for each in values:
            if not isinstance(each, str):
                raise self.bad(key, f"expected a list of strings, found {_kind(each)} in it")
        return tuple(values)

    def mapping(self, key: str) -> dict[str, Any]:
        return self._get(key, dict, "an object") or {}

    def text_mapping(self, key: str) -> dict[str, str]:
        found = self.mapping(key)
        for name, value in found.items():
            if not isinstance(value, str):
                raise self.bad(f"{key}[{shown(name)}]", f"expected a string, found {_kind(value)}")
        return found

    def object(self, key: str) -> Fields | None:
        value = self._at(key)
        return None if value is None else object_of(value, f"{self.where}: {key}")

    def objects(self, key: str) -> list[Fields]:
        value = self._at(key)
        return [] if value is None else objects_of(value, f"{self.where}: {key}")

    def digest(self, key: str) -> Digest:
        """A digest. Raises MalformedImage if it is absent, too."""
        try:
            return Digest(self.text(key))
        except ValueError as error:
            raise self.bad(key, str(error)) from None
