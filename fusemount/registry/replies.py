"""Parses the headers and error bodies of registries.

Law: no I/O.  All input is untrusted: text that does not parse becomes None, and text for messages
is short and printable.
"""

from __future__ import annotations

import email.utils
import re
from collections.abc import Iterable, Mapping

from fusemount.errors import MalformedImage
from fusemount.image.fields import object_of, parse_json, shown

ERROR_BYTES_MAX = 64 << 10  # of an error's body
ERRORS_SHOWN = 3
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")
_UPLOAD_RANGE = re.compile(r"(?:bytes=)?(\d{1,18})-(\d{1,18})")
_RATE = re.compile(r"(\d{1,9})(?:\s*;\s*w=(\d{1,9}))?")
_LINK = re.compile(r"<([^<>]{1,8192})>([^<]*)")
_NEXT = re.compile(r';\s*rel\s*=\s*"?next\b', re.IGNORECASE)


def error_text(data: bytes) -> str:
    """`code: message` of an error body (distribution-spec, "Error Codes"); "" if it has none."""
    try:
        fields = object_of(parse_json(data[:ERROR_BYTES_MAX], "reply"), "reply")
        errors = fields.objects("errors")[:ERRORS_SHOWN]
        words = [_one_error(error.document) for error in errors] or [_one_error(fields.document)]
    except MalformedImage:
        return ""
    return "; ".join(word for word in words if word)


def _one_error(document: Mapping[str, object]) -> str:
    """`code: message` of one error.  Token servers write `details` or `error_description` instead
    of `message`."""
    parts = []
    for keys in (("code", "error"), ("message", "details", "error_description")):
        texts = [document[key] for key in keys if isinstance(document.get(key), str)]
        parts += [clean(str(text)) for text in texts[:1] if text]
    return ": ".join(parts)


def clean(text: str) -> str:
    """The text in one line, printable (`shown`)."""
    return shown(" ".join(text.split()))


def retry_after(value: str | None, now: float) -> float | None:
    """`Retry-After` as seconds from now (RFC 9110 section 10.2.3); now: seconds since 1970."""
    if not value:
        return None
    if value.strip().isdecimal():
        return float(value.strip()[:9])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - now)
    except (ValueError, OverflowError):
        return None


def used_up(limit: str | None, remaining: str | None) -> str:
    """A message if Docker Hub's rate limit leaves no requests, else "".

    limit, remaining: the headers ratelimit-limit and ratelimit-remaining, `100;w=21600`: 100
    requests in 21,600 seconds.
    """
    left, whole = _RATE.match(remaining or ""), _RATE.match(limit or "")
    if not left or int(left[1]) > 0:
        return ""
    seconds = (whole and whole[2]) or left[2]
    count = f"all {whole[1]} requests" if whole else "all requests"
    return (
        f"{count} of {_duration(int(seconds))} are used up" if seconds else f"{count} are used up"
    )


def _duration(seconds: int) -> str:
    if seconds and seconds % 3600 == 0:
        return f"{seconds // 3600} h"
    return f"{seconds} s"


def content_range(value: str | None) -> tuple[int, int, int | None] | None:
    """(first, last, total length or None) of a 206's Content-Range (RFC 9110 section 14.4)."""
    match = _CONTENT_RANGE.fullmatch((value or "").strip())
    if not match or int(match[1]) > int(match[2]):
        return None
    return int(match[1]), int(match[2]), None if match[3] == "*" else int(match[3])


def uploaded(value: str | None) -> int | None:
    """The number of bytes that the registry has of an upload, from the header `Range: 0-LAST`.

    `0-0` counts as 0 bytes, because docker's registry sends it for an empty upload.
    """
    match = _UPLOAD_RANGE.fullmatch((value or "").strip())
    if not match or int(match[1]) != 0:
        return None
    return int(match[2]) + 1 if int(match[2]) else 0


def next_link(values: Iterable[str]) -> str | None:
    """The target of `Link: <…>; rel="next"` (RFC 8288)."""
    for value in values:
        for target, parameters in _LINK.findall(value):
            if _NEXT.search(parameters):
                return str(target)
    return None
