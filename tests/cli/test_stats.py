"""A daemon's numbers become a table, lines, JSON and Prometheus' format; no mount is needed."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest

from fusemount import _native
from fusemount.cli.main import main
from fusemount.cli.prometheus import exposition
from fusemount.cli.stats import _with_seconds, parser
from fusemount.cli.statsreport import (
    RATE_HEADS,
    difference,
    duration,
    rate_cells,
    rate_line,
    rates,
    report,
    share,
)
from fusemount.errors import UsageError

LOOKUP, READ = 1, 15


def counted(*added: tuple[int, int, int, bool, int], into: _native.Stats | None = None) -> Any:
    stats = into or _native.Stats()
    for one in added:
        stats.add(*one)
    return stats.snapshot()


def answered(requests: dict[str, Any], mountpoint: str = "/mnt/root") -> dict[str, Any]:
    return {
        "mount": {"mountpoint": mountpoint, "image": "i.tar", "pid": 7, "since": "2026"},
        "version": "9.8.7",
        "fastpath": True,
        "memory": {"rss_bytes": 45 << 20, "peak_rss_bytes": 50 << 20},
        "tree": {"nodes": 1000, "bytes": 171_000},
        "descriptors": {"open": 12, "limit": 20_000},
        "requests": requests,
    }


@pytest.fixture
def requests() -> dict[str, Any]:
    native = [(LOOKUP, _native.DOOR_NATIVE, 3_000, n == 0, 0) for n in range(97)]
    return counted(
        *native,
        (LOOKUP, _native.DOOR_PYTHON, 1_000_000, False, 0),
        (READ, _native.DOOR_NATIVE, 500_000, False, 2_500_000),
        (READ, _native.DOOR_NATIVE, 3_000_000, False, 0),
    )


def test_the_snapshot_has_what_was_asked_and_no_more(requests: dict[str, Any]) -> None:
    assert list(requests["ops"]) == ["LOOKUP", "READ"]
    assert list(requests["ops"]["READ"]) == ["native"]
    lookup = requests["ops"]["LOOKUP"]["native"]
    assert (lookup["count"], lookup["errors"], lookup["mean_ns"]) == (97, 1, 3_000)
    assert (lookup["p50_ns"], lookup["p99_ns"], lookup["max_ns"]) == (4096, 4096, 4096)
    assert sum(lookup["buckets"]) == lookup["buckets"][11] == 97
    assert _native.Stats().snapshot()["ops"] == {}


def test_add_refuses_what_it_cannot_count() -> None:
    stats = _native.Stats()
    for arguments, error in (
        ((1, 2, 0, False, 0), ValueError),
        ((1 << 32, 0, 0, False, 0), ValueError),
        ((1, 0, -1, False, 0), OverflowError),
        ((1, 0, 0, False, -1), OverflowError),
        ((1, 0, 0), TypeError),
        (("1", 0, 0, False, 0), TypeError),
    ):
        with pytest.raises(error):
            stats.add(*arguments)  # type: ignore[arg-type, call-arg]
    assert stats.snapshot()["ops"] == {}
    for buckets in ([], [0] * 39, ["1"] * 40, None):
        with pytest.raises((TypeError, ValueError)):
            _native.Stats.percentile(buckets, 0.5)  # type: ignore[arg-type]


def test_the_table(requests: dict[str, Any]) -> None:
    lines = report(answered(requests)).splitlines()
    rows = [re.split(r"  +", line) for line in lines[: lines.index("")]]
    assert rows == [
        ["OPERATION", "DOOR", "COUNT", "ERRORS", "P50", "P99", "MEAN", "MB"],
        ["LOOKUP", "fast path", "97", "1", "4.1 us", "4.1 us", "3.0 us", "-"],
        ["LOOKUP", "Python", "1", "0", "1.0 ms", "1.0 ms", "1.0 ms", "-"],
        ["READ", "fast path", "2", "0", "524 us", "4.2 ms", "1.8 ms", "2.5"],
    ]
    assert len({len(line) for line in lines[:4]}) == 1, "numbers stand to the right"
    totals = dict(re.split(r"  +", line, maxsplit=1) for line in lines[lines.index("") + 1 :])
    assert totals["requests"] == "100"
    assert totals["answered by the fast path"] == "99.0 %"
    assert totals["memory (VmRSS)"] == "45.0 MiB"
    assert totals["bytes of the tree"] == "171,000 (171 a node)"
    assert totals["descriptors"] == "12 of 20,000"


def test_an_unused_mount_has_a_table_too() -> None:
    text = report(answered(_native.Stats().snapshot()))
    assert re.search(r"^requests +0$", text, re.MULTILINE)
    assert re.search(r"^answered by the fast path +-$", text, re.MULTILINE)


def test_a_counter_that_is_new_is_shown_by_its_name(requests: dict[str, Any]) -> None:
    requests["cache_fills"] = 1234
    assert re.search(r"^cache fills +1,234$", report(answered(requests)), re.MULTILINE)
    assert 'imgmount_cache_fills_total{mountpoint="/mnt/root"} 1234' in exposition(
        answered(requests)
    )


def test_the_fast_path_is_said_to_be_off(requests: dict[str, Any]) -> None:
    text = report(answered(requests) | {"fastpath": False})
    assert re.search(r"^answered by the fast path +off$", text, re.MULTILINE)


def test_an_interval_has_its_own_percentiles() -> None:
    stats = _native.Stats()
    before = counted(*[(READ, 0, 1_000_000, True, 10)] * 1000, into=stats)
    after = counted(
        *[(READ, 0, 1_000, False, 1_000_000)] * 10, (LOOKUP, 1, 50, False, 0), into=stats
    )
    made = difference(before, after)
    read = made["ops"]["READ"]["native"]
    assert (read["count"], read["errors"], read["bytes"]) == (10, 0, 10_000_000)
    assert (read["p99_ns"], read["max_ns"], read["mean_ns"]) == (1024, 1024, 1000)
    assert made["ops"]["LOOKUP"]["python"]["count"] == 1
    assert difference(after, after)["ops"] == {}
    assert share(made) == "90.9 %"
    assert "5" in rates(answered(after), made, 2.0).splitlines()[2].split()
    cells = rate_cells("12:00:00", answered(after), made, 2.0)
    assert cells[:4] == ("12:00:00", "5.5", "90.9 %", "0")
    assert cells[6] == "5.0"
    assert len(rate_line(cells)) == len(rate_line(RATE_HEADS))
    nothing = rate_cells("12:00:00", answered(after), difference(after, after), 2.0)
    assert nothing[1:3] == ("0", "-")


def test_durations() -> None:
    written = [duration(ns) for ns in (0, 999, 1000, 8192, 16384, 999_999, 1 << 20, 1 << 40)]
    assert written == ["0 ns", "999 ns", "1.0 us", "8.2 us", "16 us", "1000 us", "1.0 ms", "1100 s"]


# ---- Prometheus ---------------------------------------------------------------------------------

_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_LABEL = r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\\\|\\"|\\n)*)"'
_SAMPLE = re.compile(rf"({_NAME})(?:\{{({_LABEL}(?:,{_LABEL})*)\}})? (\S+)")
_SUFFIXES = {"counter": [""], "gauge": [""], "histogram": ["_bucket", "_sum", "_count"]}


def parse(text: str) -> dict[str, tuple[str, dict[tuple[tuple[str, str], ...], float]]]:
    """Parses the format by promtool's rules: {family: (kind, {(name, labels): value})}."""
    assert text.endswith("\n")
    families: dict[str, Any] = {}
    family = kind = ""
    helped: set[str] = set()
    for line in text.splitlines():
        if line.startswith("# HELP "):
            name, _, words = line[7:].partition(" ")
            assert name not in helped and words.strip(), line
            helped.add(name)
            continue
        if line.startswith("# TYPE "):
            family, kind = line[7:].split(" ")
            assert family in helped and family not in families and kind in _SUFFIXES, line
            assert (kind == "counter") == family.endswith("_total"), line
            families[family] = (kind, {})
            continue
        found = _SAMPLE.fullmatch(line)
        assert found, line
        assert found[1].removeprefix(family) in _SUFFIXES[kind], f"{line}: not of {family}"
        labels = tuple(re.findall(_LABEL, found[2] or ""))
        assert len({name for name, _ in labels}) == len(labels), line
        key = (("__name__", found[1]), *labels)
        assert key not in families[family][1], f"twice: {line}"
        families[family][1][key] = float(found[7])
    return families


def test_prometheus(requests: dict[str, Any]) -> None:
    families = parse(exposition(answered(requests)))
    at = (("operation", "LOOKUP"), ("door", "native"), ("mountpoint", "/mnt/root"))
    kind, samples = families["imgmount_requests_total"]
    assert kind == "counter"
    assert samples[(("__name__", "imgmount_requests_total"), *at)] == 97
    assert (
        families["imgmount_request_errors_total"][1][
            (("__name__", "imgmount_request_errors_total"), *at)
        ]
        == 1
    )
    assert list(families["imgmount_resident_memory_bytes"][1].values()) == [45 << 20]
    assert list(families["imgmount_info"][1].values()) == [1]


def test_histograms_are_cumulative_and_complete(requests: dict[str, Any]) -> None:
    kind, samples = parse(exposition(answered(requests)))["imgmount_request_seconds"]
    assert kind == "histogram"
    series: dict[Any, list[tuple[float, float]]] = {}
    ends: dict[Any, dict[str, float]] = {}
    for labels, value in samples.items():
        given = dict(labels)
        name, le = given.pop("__name__"), given.pop("le", None)
        key = tuple(sorted(given.items()))
        if le is None:
            ends.setdefault(key, {})[name.rpartition("_")[2]] = value
        else:
            series.setdefault(key, []).append((float(le), value))
    assert len(series) == 3 and set(series) == set(ends)
    for key, buckets in series.items():
        assert [b[0] for b in buckets] == sorted({b[0] for b in buckets})
        assert [b[1] for b in buckets] == sorted(b[1] for b in buckets)
        assert buckets[-1] == (float("inf"), ends[key]["count"])
    at = (("door", "native"), ("mountpoint", "/mnt/root"), ("operation", "READ"))
    assert ends[at] == {"count": 2, "sum": pytest.approx(0.0035)}
    edges = dict(series[at])
    assert edges[2**18 / 1e9] == 0 and edges[2**20 / 1e9] == 1 and edges[2**22 / 1e9] == 2


@pytest.mark.parametrize(
    ("mountpoint", "label"),
    [('/a"b', r"/a\"b"), ("/a\\b", r"/a\\b"), ("/a\nb", r"/a\nb"), ("/\udcff", r"/\\xff"),
     ("/é", "/é"), ("/\x1b[2J", r"/\\x1b[2J")],
)  # fmt: skip
def test_labels_are_escaped(mountpoint: str, label: str, requests: dict[str, Any]) -> None:
    text = exposition(answered(requests, mountpoint))
    assert f'imgmount_tree_nodes{{mountpoint="{label}"}} 1000\n' in text
    assert parse(text)
    text.encode()


# ---- the command line ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "watch"),
    [(["/mnt"], None), (["--watch", "/mnt"], 2.0), (["/mnt", "--watch"], 2.0),
     (["--watch", "0.5", "/mnt"], 0.5), (["/mnt", "--watch", "10"], 10.0),
     (["--watch=3", "/mnt"], 3.0), (["--watch", ".5", "/mnt"], 0.5),
     (["--watch", "2/mnt"], 2.0)],
)  # fmt: skip
def test_watch_may_lack_its_number(argv: list[str], watch: float | None) -> None:
    assert parser().parse_args(_with_seconds(argv)).watch == watch


@pytest.mark.parametrize("seconds", ["0", "0.01", "1e9", "nan", "inf", "-1", "2s"])
def test_a_bad_interval_is_refused(seconds: str) -> None:
    with pytest.raises(UsageError, match="--watch"):
        parser().parse_args(_with_seconds([f"--watch={seconds}", "/mnt"]))


@pytest.mark.parametrize(
    "argv",
    [
        ["stats"],
        ["stats", "--json", "--prometheus", "/"],
        ["stats", "--watch", "--prometheus", "/"],
    ],
)
def test_bad_usage_is_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_snapshot_is_not_changed_by_what_is_made_of_it(requests: dict[str, Any]) -> None:
    kept = copy.deepcopy(requests)
    difference(requests, requests)
    report(answered(requests))
    exposition(answered(requests))
    assert requests == kept
