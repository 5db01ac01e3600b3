"""Law: what registries say in headers and error bodies becomes values and words; no I/O.

All of it is a stranger's: what does not parse is None, what is shown is short and printable.
"""

from __future__ import annotations

import email.utils
import re
from collections.abc import Iterable, Mapping

from fusemount.errors import MalformedImage
from fusemount.image.fields import object_of, parse_json, shown

ERROR_BYTES_MAX = 64 << 10  # of a body that says why not
ERRORS_SHOWN = 3
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")
_UPLOAD_RANGE = re.compile(r"(?:bytes=)?(\d{1,18})-(\d{1,18})")
_RATE = re.compile(r"(\d{1,9})(?:\s*;\s*w=(\d{1,9}))?")
_LINK = re.compile(r"<([^<>]{1,8192})>([^<]*)")
_NEXT = re.compile(r';\s*rel\s*=\s*"?next\b', re.IGNORECASE)


def error_text(data: bytes) -> str:
    """`code: message` of an error body (distribution-spec, "Error Codes"); "" where it has none."""
    try:
        fields = object_of(parse_json(data[:ERROR_BYTES_MAX], "reply"), "reply")
        errors = fields.objects("errors")[:ERRORS_SHOWN]
        words = [_one_error(error.document) for error in errors] or [_one_error(fields.document)]
    except MalformedImage:
        return ""
    return "; ".join(word for word in words if word)


def _one_error(document: Mapping[str, object]) -> str:
    """Token servers say `details` or `error_description`."""
    parts = []
    for keys in (("code", "error"), ("message", "details", "error_description")):
        texts = [document[key] for key in keys if isinstance(document.get(key), str)]
        parts += [clean(str(text)) for text in texts[:1] if text]
    return ": ".join(parts)


def clean(text: str) -> str:
    """One line without its line ends; see `shown`."""
    return shown(" ".join(text.split()))


def retry_after(value: str | None, now: float) -> float | None:
    """Seconds from now (RFC 9110 section 10.2.3); now: seconds since 1970."""
    if not value:
        return None
    if value.strip().isdecimal():
        return float(value.strip()[:9])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - now)
    except (ValueError, OverflowError):
        return None


def used_up(limit: str | None, remaining: str | None) -> str:
    """Docker Hub's `ratelimit-limit: 100;w=21600` in words, where nothing remains; else ""."""
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
    """(first, last, length of the whole or None) of a 206 (RFC 9110 section 14.4)."""
    match = _CONTENT_RANGE.fullmatch((value or "").strip())
    if not match or int(match[1]) > int(match[2]):
        return None
    return int(match[1]), int(match[2]), None if match[3] == "*" else int(match[3])


def uploaded(value: str | None) -> int | None:
    """How many bytes an upload has, from its `Range: 0-LAST`.

    `0-0` is what docker's registry says of an empty one, so it counts as nothing.
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
