"""scripts/bench, its pure parts: turns, ratios, tables, limits, archives. Nothing is timed."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

TOP = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "scripts"))

from benchmarks import debian, images, mounting, packed, packedimages, report, tools  # noqa: E402
from benchmarks.contestants import DEFAULT_PEERS, contestants  # noqa: E402
from benchmarks.running import (  # noqa: E402
    ALL_WORKS,
    Failed,
    Memory,
    Results,
    Run,
    Share,
    perform,
    turns,
)
from benchmarks.works import Bench, Found  # noqa: E402

ABOUT: dict[str, Any] = {
    "command": "scripts/bench all", "when": "2026-11-23 10:00 UTC", "kernel": "6.18", "cpus": 2,
    "disk": "ext4", "runs": 3, "quick": False, "load": False,
    "contestants": ["imgmount", "overlayfs", "ratarmount"],
}  # fmt: skip


def runs(measure: str, **seconds: list[float]) -> list[Run]:
    return [
        Run("a-work", measure, name.replace("_", "-"), i, value)
        for name, values in seconds.items()
        for i, value in enumerate(values, 1)
    ]


def test_contestants_take_turns() -> None:
    assert list(turns("ABC", 2)) == [(1, "A"), (1, "B"), (1, "C"), (2, "A"), (2, "B"), (2, "C")]


def test_ratio_is_of_medians_and_ours_is_above() -> None:
    rows = report.times(runs("m", imgmount=[1, 9, 2], overlayfs=[4, 4, 100]))["m"]
    assert report.ratio(rows, "overlayfs") == 0.5
    assert report.ratio(rows, "imgmount") == 1
    assert report.ratio(rows, "ratarmount") is None
    assert report.ratio({"imgmount": [1], "overlayfs": [0]}, "overlayfs") is None


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0.0456, "0.046"), (2.345, "2.35"), (23.45, "23.4"), (234.5, "234")],  # noqa: RUF001
)
def test_figures_have_three_digits(value: float | None, text: str) -> None:
    assert report.figure(value) == text


def test_the_table_has_every_figure_and_a_dash_for_who_cannot() -> None:
    found = Results(runs("m", imgmount=[0.1, 0.3, 0.2], overlayfs=[12.5, 12.5, 12.5]))
    assert report.every_figure(found, ABOUT["contestants"]).splitlines()[2:] == [
        "| m | imgmount | 0.2000 | 0.1000 | 0.3000 | 1.00 |",
        "| m | overlayfs | 12.50 | 12.50 | 12.50 | 0.016 |",
        "| m | ratarmount | – | – | – | – |",  # noqa: RUF001
    ]


def test_who_failed_is_told_from_who_cannot() -> None:
    found = Results(runs("m", imgmount=[1.0]), [], [Failed("a-work", "overlayfs", 1, "it\nbroke")])
    text = report.markdown(ABOUT, found)
    assert "| m | overlayfs | failed |" in text
    assert "- a-work, overlayfs, run 1: it broke" in text


def test_a_report_goes_between_the_marks_of_its_page() -> None:
    page = "a\n<!-- begin bench -->\nold\n<!-- end bench -->\nb\n"
    once = report.spliced(page, "bench", "new\n")
    assert once == "a\n<!-- begin bench -->\n\nnew\n\n<!-- end bench -->\nb\n"
    assert report.spliced(once, "bench", "new\n") == once
    assert report.spliced(page, "bench-load", "new\n") == "new\n"
    for name in ("bench", "bench-load", "bench-packed"):
        kept = (TOP / "docs/benchmarks.md").read_text()
        assert report.spliced(kept, name, "new\n") != "new\n"


def test_limits_are_met_up_to_the_limit_itself() -> None:
    found = Results(
        runs("stat walk, warm", imgmount=[1.0], overlayfs=[1.0], fuse_overlayfs=[1.9])
        + runs("fsync loop", imgmount=[1.0], overlayfs=[0.5])
    )
    rows = {line.split(" | ")[0]: line for line in report.against_limits(found).splitlines()}
    assert rows["| stat walk, warm"].endswith("| 1.00 | ≤ 1 | yes | 0.526 | ≤ 0.5 | **no** |")
    assert rows["| fsync loop"].endswith("| 2.00 | ≤ 1.6 | **no** | – | ≤ 1 | – |")  # noqa: RUF001


def test_memory_is_allowed_by_the_node() -> None:
    mib = 1 << 20
    found = Results([], [Memory("m", "imgmount", i, size * mib, mib) for i, size in
                         enumerate((246, 244, 245))])  # fmt: skip
    assert "| peak memory, m | 246 MiB | ≤ 245 MiB | **no** |" in report.absolute_limits(found)


def test_every_limit_names_a_measure_that_a_work_has() -> None:
    """A measure renamed in works.py would else leave its limit without a figure, unseen."""
    source = (TOP / "scripts/benchmarks/works.py").read_text()
    for limit in report.LIMITS:
        head = limit.measure.partition(", ")[0]
        assert f'"{limit.measure}"' in source or f'"{head}, {{turn}}"' in source, limit
    storing = (TOP / "scripts/benchmarks/storing.py").read_text()
    for measure in report.SECONDS:
        if measure != "ls of 1,000 images":
            assert measure.split(", ", 1)[1].removesuffix(" entries") in source
    assert images.Sizes().stored == 1000
    for measure, _, _ in report.STORE_LIMITS:
        assert f'"{measure}"' in storing


def test_every_limit_of_packed_layers_names_a_measure_that_a_work_has() -> None:
    source = (TOP / "scripts/benchmarks/packed.py").read_text()
    said = re.findall(r'f"([^"]*, \{form\})"', source)
    known = [re.sub(r"\\{\w+\\}", r"\\w+", re.escape(text.removesuffix("{form}"))) for text in said]
    limits = [one for row in report.PACKED_LIMITS for one in row]
    measures = [*(x.measure for x in limits), *(x.beside for x in limits if x.beside)]
    for measure in [*measures, *report.PACKED_SECONDS, *report.PACKED_SHARES]:
        head, _, form = measure.rpartition(", ")
        assert form in packedimages.FORMS
        assert any(
            re.fullmatch(text, f"{head}, ") for text in known if not text.startswith(r"\w+,")
        ), measure
    others = {name for work in packed.PACKED_WORKS for name in work.others}
    assert {x.other for x in limits} - {"imgmount"} <= others
    assert others <= {*packed.PROGRAMS, *DEFAULT_PEERS.split(",")}


def test_one_limit_of_a_row_is_enough() -> None:
    found = Results(
        runs("pull, gzip", imgmount=[1.0], skopeo=[0.5], merely=[1.0])
        + runs("pull, zstd", imgmount=[1.0], skopeo=[0.5], merely=[0.5])
        + runs("import numpy, gzip", imgmount=[3.0])
        + runs("import numpy, plain", imgmount=[2.0]),
        shares=[Share("w", "disk after first mount, gzip", "imgmount", 1, 0.016)],
    )
    lines = report.packed_limits(found).splitlines()
    assert "| pull, gzip | skopeo | 2.00 | ≤ 1.25, try 1 | yes |" in lines
    assert "| pull, gzip | merely | 1.00 | ≤ 1.15 | yes |" in lines
    assert "| pull, zstd | merely | 2.00 | ≤ 1.15 | **no** |" in lines
    assert "| import numpy, gzip | import numpy, plain | 1.50 | ≤ 1.5 | yes |" in lines
    assert "| disk after first mount, gzip | the blobs | 1.60 % | ≤ 1.5 % | **no** |" in lines


@pytest.mark.parametrize("form", packedimages.FORMS)
def test_a_layout_has_the_tars_in_their_form(
    tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tar = tmp_path / "a.tar"
    images.write_archive(tar, images.root_like(90, 3_000_000))
    monkeypatch.setattr(packedimages, "_tars", lambda *_: [tar])
    kit = tools.Tools(tmp_path, tmp_path)
    bench = Bench(tmp_path, kit, {}, images.QUICK, 60.0)
    (blob,) = packedimages.blobs(packedimages.layout(bench, "python", form))
    unpacked = subprocess.run([*packed.UNPACK[form].split(), blob], capture_output=True, check=True)
    assert unpacked.stdout == tar.read_bytes()
    assert packedimages.layout(bench, "python", form).is_dir()  # as it was made
    command = packed._merely(blob.parents[2], form, mounting.Place(tmp_path))
    tools.output(command, 60)
    if form != "plain":
        blob.write_bytes(blob.read_bytes()[:-9])
        with pytest.raises(tools.Failure):
            tools.output(command, 60)


def test_no_random_read_is_near_another(tmp_path: Path) -> None:
    path, slot, length = tmp_path / "file", 1 << 20, 64 << 10
    path.write_bytes(bytes(5 * slot + 1))
    words = ["file", path, "", 0, 5 * slot + 1, length, slot, 60]
    took = tools.output([sys.executable, "-c", packed.READER, *map(str, words)], 60)
    assert len(json.loads(took)) == 5


def test_results_survive_json() -> None:
    found = Results(runs("m", imgmount=[1.0]), [Memory("m", "imgmount", 1, 2, 3)])
    kept = json.loads(json.dumps(found.as_json()))
    assert [Run(**r) for r in kept["runs"]] == found.runs
    assert [Memory(**m) for m in kept["memory"]] == found.memory


def test_works_have_names_of_their_own_and_images_that_exist(tmp_path: Path) -> None:
    names = [work.name for work in ALL_WORKS]
    assert len(set(names)) == len(names)
    known = images.all_images(tmp_path, tools.Tools(tmp_path, tmp_path), images.QUICK)
    assert {work.image for work in ALL_WORKS} <= set(known)


def test_variants_and_aliases(tmp_path: Path) -> None:
    found = contestants(
        ["imgmount", "ext4", "imgmount-pyfuse3"], tools.Tools(tmp_path, tmp_path), "xfs", "a=1",
        {"imgmount-two": "threads=2"}, {"imgmount-before": tmp_path / "old"},
    )  # fmt: skip
    names = [c.name for c in found]
    assert names == ["imgmount", "xfs", "imgmount-pyfuse3", "imgmount-two", "imgmount-before"]
    image = images.all_images(tmp_path, tools.Tools(tmp_path, tmp_path), images.QUICK)["large"]
    commands = [[*map(str, c.command(image, mounting.Place(tmp_path)))] for c in found]
    words = [command[-1] for command in commands]
    assert words[0] == "a=1"
    assert words[2:] == ["a=1,fastpath=off", "a=1,threads=2", "a=1"]
    assert commands[-1][0] == str(tmp_path / "old/.venv/bin/python")
    with pytest.raises(ValueError, match="zfs"):
        contestants(["zfs"], tools.Tools(tmp_path, tmp_path), "ext4", "", {}, {})


class Work:
    name, image = "a-work", "large"

    def __init__(self) -> None:
        self.visits: list[str] = []

    def takes(self, contestant: object) -> bool:
        return True

    def visit(self, contestant: object, bench: object) -> Found:
        name = contestant.name  # type: ignore[attr-defined]
        self.visits.append(name)
        if name == "overlayfs":
            raise tools.Failure("no such luck")
        return Found({"m": 1.0}, 5)


class Fed:
    def __init__(self, name: str) -> None:
        self.name = name

    def prepare(self, image: object) -> None:
        pass


def test_a_failure_stops_nobody_else(tmp_path: Path) -> None:
    kit = tools.Tools(tmp_path, tmp_path)
    bench = Bench(tmp_path, kit, images.all_images(tmp_path, kit, images.Sizes(large_mib=1)),
                  images.QUICK, 1.0)  # fmt: skip
    work, found = Work(), Results()
    perform([work], [Fed("imgmount"), Fed("overlayfs")], 2, bench, found)  # type: ignore[list-item]
    assert work.visits == ["imgmount", "overlayfs", "imgmount"]
    assert [(f.contestant, f.reason) for f in found.failures] == [("overlayfs", "no such luck")]
    assert [run.run for run in found.runs] == [1, 2]


def test_archives_are_what_they_say(tmp_path: Path) -> None:
    path = tmp_path / "tree.tar"
    images.write_archive(path, images.root_like(3000, 30_000_000))
    with tarfile.open(path) as tar:
        members = tar.getmembers()
    files = [m for m in members if m.isfile()]
    assert len(files) == 3000
    assert sum(m.size for m in files) == pytest.approx(30_000_000, rel=0.05)
    assert len({m.name for m in members}) == len(members)
    sizes = sorted(m.size for m in files)
    assert sizes[len(sizes) // 2] < 10_000 / 2, "most files are small"
    known = {"usr"} | {m.name for m in members if m.isdir()}
    assert all(os.path.dirname(m.name) in known for m in members)


def test_empty_files_are_a_thousand_a_directory() -> None:
    members = list(images.flat(2500))
    assert [kind for _, kind, _ in members].count(b"5") == 3
    assert len(members) == 2503
    block = images.header("x" * 100, b"0", 7)
    assert tarfile.TarInfo.frombuf(block, "utf-8", "strict").size == 7
    assert len(block) == len(io.BytesIO(block).read(images.BLOCK))


def test_sources_include_headers_that_exist(tmp_path: Path) -> None:
    debian.write_sources(tmp_path / "build", 3)
    included = {
        line.split('"')[1]
        for path in (tmp_path / "build").rglob("*.[ch]")
        for line in path.read_text().splitlines()
        if line.startswith('#include "')
    }
    assert included <= {p.name for p in (tmp_path / "build/include").iterdir()}
    assert len(list((tmp_path / "build").glob("drivers*/*.c"))) == 3


def test_only_processes_that_name_the_mountpoint_are_servers(tmp_path: Path) -> None:
    at = tmp_path / "mnt"
    other = subprocess.Popen(["tail", "-f", "/dev/null"])
    server = subprocess.Popen(["tail", "-f", "/dev/null", at], stderr=subprocess.DEVNULL)
    try:
        found: list[int] = []
        while not found and server.poll() is None:  # until it has been executed
            found = mounting.serving(at)
        assert found == [server.pid]
        mounting.kill_servers(at)
        assert server.wait() == -signal.SIGKILL
        assert other.poll() is None
    finally:
        for child in (other, server):
            child.kill()
            child.wait()


def test_a_program_that_hangs_is_ended_after_what_it_waits_for(tmp_path: Path) -> None:
    told: list[str] = []
    with pytest.raises(tools.Failure, match="sleep: not done"):
        tools.output(["sleep", "60"], 0.05, on_timeout=lambda: told.append("first"))
    assert told == ["first"]
    with pytest.raises(tools.Failure, match="No such file"):
        tools.output(["cat", tmp_path / "gone"], 30)


def test_two_benchmarks_do_not_share_a_directory(tmp_path: Path) -> None:
    with tools.alone(tmp_path / "new"):
        with pytest.raises(tools.Failure, match="another benchmark"):
            with tools.alone(tmp_path / "new"):
                pytest.fail("two at once")
    with tools.alone(tmp_path / "new"):
        pass


def test_the_command_names_its_works_and_contestants() -> None:
    done = subprocess.run([sys.executable, TOP / "scripts/bench", "--help"], capture_output=True,
                          text=True, check=True)  # fmt: skip
    assert "read-walk" in done.stdout
    assert DEFAULT_PEERS in "".join(done.stdout.split())
