"""Parses `WWW-Authenticate` headers (RFC 9110 section 11.6.1).  Law: no I/O.

Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:…"
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import field

from fusemount.dataclass import dataclass

HEADER_MAX = 16 << 10
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PARAMETER = re.compile(rf'\s*({_TOKEN})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))\s*(?:,|$)')
_SCHEME = re.compile(rf"[\s,]*({_TOKEN})(?:\s+|\s*(?=,|$))")


@dataclass(frozen=True)
class Challenge:
    """scheme: in lower case; parameters: names in lower case."""

    scheme: str
    parameters: Mapping[str, str] = field(default_factory=dict)


def parse_challenges(headers: Iterable[str]) -> tuple[Challenge, ...]:
    """All challenges that can be parsed, in order.  After an error, the rest of that header is
    dropped."""
    found: list[Challenge] = []
    for header in headers:
        text, at = header[:HEADER_MAX], 0
        while scheme := _SCHEME.match(text, at):
            at = scheme.end()
            parameters: dict[str, str] = {}
            while pair := _PARAMETER.match(text, at):
                quoted = re.sub(r"\\(.)", r"\1", pair[2]) if pair[2] is not None else pair[3]
                parameters.setdefault(pair[1].lower(), quoted)
                at = pair.end()
            found.append(Challenge(scheme[1].lower(), parameters))
    return tuple(found)
