"""Law: changes an input into another one that still parses, so that the change gets further than
the parser.

    json_line      changes one value of a JSON document, or of one of its lines
    pieces_of      makes a mutator of one piece (native/fuzz/fuzz.h) work on inputs of several

The same seed always gives the same input.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from random import Random
from typing import Any

Mutator = Callable[[bytes, Random], bytes]
_HEAD = struct.Struct("<BH")
_OTHERS: tuple[Any, ...] = (
    None, True, 0, -1, 1, 2**31, 2**63 - 1, 2**63, 2**64, 10**400, 1e3, 1.5, "", "x", "\0", "a\nb",
    "\x1b[0m", "é", "\ud800", "../../x", "/", "a" * 300, "sha256:" + "0" * 64, "sha256:x", [], {},
    [None], [""], {"": ""}, {"k": None}, [[]], {"\x1b": {}},
)  # fmt: skip


def _positions(value: Any, found: list[tuple[Any, Any]]) -> None:
    """Adds (container, key) of every value inside value to found."""
    keys = list(value) if isinstance(value, dict) else range(len(value))
    for key in keys:
        found.append((value, key))
        if isinstance(value[key], dict | list):
            _positions(value[key], found)


def _changed(value: Any, random: Random) -> Any:
    places: list[tuple[Any, Any]] = []
    if isinstance(value, dict | list):
        _positions(value, places)
    if not places:
        return random.choice(_OTHERS)
    container, key = random.choice(places)
    other, other_key = random.choice(places)
    way = random.randrange(6)
    if way == 0:
        del container[key]
    elif way == 1:
        container[key] = json.loads(json.dumps(other[other_key]))
    elif way == 2 and isinstance(container, dict):
        container[random.choice(("\x7f", "x", str(key).upper()))] = container[key]
    elif way == 3 and isinstance(container[key], str):
        at = random.randrange(len(container[key]) + 1)
        cut = random.choice(("\0", "\n", ":", "/", "@", "é", "", "0"))
        container[key] = container[key][:at] + cut + container[key][at + 1 :]
    elif way == 4 and isinstance(container, list):
        container.extend(container[:9])
    else:
        container[key] = random.choice(_OTHERS)
    return value


def json_line(data: bytes, random: Random) -> bytes:
    """An input that is no JSON becomes an empty object; libFuzzer's own mutations do the rest."""
    lines = data.split(b"\n")
    at = random.randrange(len(lines))
    try:
        value = json.loads(lines[at])
    except (ValueError, RecursionError):
        value = {}
    lines[at] = json.dumps(_changed(value, random)).encode()
    return b"\n".join(lines)


def pieces_of(mutate: Mutator) -> Mutator:
    def change(data: bytes, random: Random) -> bytes:
        pieces, at = [], 0
        while at + _HEAD.size <= len(data):
            kind, length = _HEAD.unpack_from(data, at)
            pieces.append((kind, data[at + _HEAD.size : at + _HEAD.size + length]))
            at += _HEAD.size + length
        if pieces:
            i = random.randrange(len(pieces))
            pieces[i] = (pieces[i][0], mutate(pieces[i][1], random)[:65535])
        return b"".join(_HEAD.pack(kind, len(body)) + body for kind, body in pieces)

    return change


MUTATORS: dict[str, Mutator] = {
    "documents": json_line,
    "auths": json_line,
    "tarsplit": json_line,
    "uppermarks": json_line,
    "challenges": json_line,
    "sources": pieces_of(json_line),
}
