"""Writes a daemon's numbers in Prometheus' text exposition format, version 0.0.4
(https://prometheus.io/docs/instrumenting/exposition_formats/).

    # HELP name text        once for each name, directly before all its samples
    # TYPE name kind
    name{label="value"} number

Law: names of counters end in _total, units are seconds and bytes, and each sample names its mount,
so that the samples of several mounts can be scraped together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from fusemount.cli.statsreport import counters, operations
from fusemount.dataclass import dataclass
from fusemount.escape import printable

Labels = tuple[tuple[str, str], ...]
# (suffix of the name, labels besides the mount's, value)
Sample = tuple[str, Labels, float]

# Upper edges of the buckets that are shown: every second power of two ns from 1 us to 17 s.
# A bucket also counts all requests below it, so a bucket that is left out costs only detail.
_EDGES = tuple(range(10, 35, 2))

_COUNTERS = {
    "copy_up_waits": "Requests that waited for Python to copy a file up.",
    "pushed_files": "Files put into the page cache ahead of a reader.",
    "pushed_bytes": "Bytes put into the page cache ahead of a reader.",
    "push_misses": "Pushes of files that the kernel had forgotten.",
    "wakeups": "Times a thread slept until there was a request.",
    "spins": "Times a request came while a thread spun.",
    "malformed": "Requests that broke the protocol or are not known.",
}


@dataclass(frozen=True)
class Family:
    name: str
    kind: str  # "counter", "gauge", "histogram"
    help: str
    samples: tuple[Sample, ...]


def exposition(answer: dict[str, Any]) -> str:
    mount = ("mountpoint", answer["mount"]["mountpoint"])
    lines: list[str] = []
    for family in families(answer):
        lines.append(f"# HELP {family.name} {family.help}")
        lines.append(f"# TYPE {family.name} {family.kind}")
        for suffix, labels, value in family.samples:
            lines.append(f"{family.name}{suffix}{_written((*labels, mount))} {value!r}")
    return "\n".join(lines) + "\n"


def families(answer: dict[str, Any]) -> Iterator[Family]:
    requests = answer["requests"]
    found = [
        ((("operation", operation), ("door", door)), numbers)
        for operation, door, numbers in operations(requests)
    ]
    for name, key, text in (
        ("imgmount_requests_total", "count", "Requests answered."),
        ("imgmount_request_errors_total", "errors", "Requests answered with an error."),
        ("imgmount_request_bytes_total", "bytes", "Bytes read, written or copied."),
    ):
        yield Family(name, "counter", text, tuple(("", at, n[key]) for at, n in found))
    samples = tuple(sample for at, numbers in found for sample in _histogram(at, numbers))
    yield Family("imgmount_request_seconds", "histogram", "Time to answer a request.", samples)
    for key, value in counters(requests).items():
        text = _COUNTERS.get(key, key.replace("_", " ").capitalize() + ".")
        yield Family(f"imgmount_{key}_total", "counter", text, (("", (), value),))
    yield from _gauges(answer)


def _histogram(at: Labels, numbers: dict[str, Any]) -> Iterator[Sample]:
    buckets = numbers["buckets"]
    for edge in _EDGES:
        # bucket b ends at 2^(b+1) ns
        yield "_bucket", (*at, ("le", repr((1 << edge) / 1e9))), sum(buckets[:edge])
    yield "_bucket", (*at, ("le", "+Inf")), sum(buckets)
    yield "_sum", at, numbers["total_ns"] / 1e9
    yield "_count", at, sum(buckets)


def _gauges(answer: dict[str, Any]) -> Iterator[Family]:
    memory, tree, descriptors = answer["memory"], answer["tree"], answer["descriptors"]
    for name, text, value in (
        ("resident_memory_bytes", "The daemon's VmRSS.", memory["rss_bytes"]),
        ("resident_memory_peak_bytes", "The daemon's VmHWM.", memory["peak_rss_bytes"]),
        ("tree_nodes", "Inodes of the merged tree.", tree["nodes"]),
        ("tree_bytes", "Memory of the merged tree.", tree["bytes"]),
        ("open_fds", "Descriptors that the daemon has open.", descriptors["open"]),
        ("max_fds", "Descriptors that it may have open.", descriptors["limit"]),
        ("fast_path", "1 when the fast path answers, 0 when Python does.", int(answer["fastpath"])),
    ):
        yield Family("imgmount_" + name, "gauge", text, (("", (), value),))
    version = (("version", answer["version"]), ("image", answer["mount"]["image"]))
    yield Family("imgmount_info", "gauge", "What serves what; always 1.", (("", version, 1),))


def _written(labels: Iterable[tuple[str, str]]) -> str:
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels) + "}"


def _escaped(value: str) -> str:
    r"""The value with the format's escapes \\, \" and \n; bytes that are not UTF-8 and unprintable
    characters are escaped too."""
    clean = "\n".join(map(printable, value.split("\n")))
    return clean.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
