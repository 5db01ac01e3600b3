"""`imgmount stats MOUNTPOINT`: prints a mount's requests, the doors that answered them, and the
times."""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from fusemount.cli.arguments import Parser
from fusemount.cli.environment import directories
from fusemount.cli.terminal import drive
from fusemount.errors import UsageError

if TYPE_CHECKING:
    from fusemount.daemon.mountrecords import Record

_DEFAULT_SECONDS = "2"
_SECONDS_MIN, _SECONDS_MAX = 0.1, 86400.0
_CLEAR = "\x1b[H\x1b[2J"


def parser() -> Parser:
    p = Parser("stats", "Print what a mount was asked, who answered, and how long that took.")
    p.add_argument("mountpoint", type=Path)
    p.add_argument("--watch", metavar="SECONDS", type=_seconds, nargs="?",
                   help=f"what happens each SECONDS ({_DEFAULT_SECONDS}), until ^C")  # fmt: skip
    form = p.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true",
                      help="all numbers as JSON; with --watch an object a line")  # fmt: skip
    form.add_argument("--prometheus", action="store_true",
                      help="Prometheus' text exposition format")  # fmt: skip
    return p


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not _SECONDS_MIN <= value <= _SECONDS_MAX:  # in this form it also refuses nan
        raise UsageError(
            f"--watch {text}: a number of seconds from {_SECONDS_MIN} to {_SECONDS_MAX:.0f}"
        )
    return value


def _with_seconds(argv: list[str]) -> list[str]:
    """Gives `--watch` its default if no number follows: the word in `--watch /mnt` is a
    mountpoint."""
    given = []
    for word, following in zip(argv, [*argv, ""][1:], strict=True):
        number = following[:1].isdecimal() or following[:1] == "."
        number = number and "/" not in following
        given.append(word if word != "--watch" or number else f"{word}={_DEFAULT_SECONDS}")
    return given


def run(argv: list[str]) -> int:
    args = parser().parse_args(_with_seconds(argv))
    if args.watch and args.prometheus:
        raise UsageError("--watch and --prometheus: Prometheus asks by itself, again and again")

    from fusemount.daemon.control import find_record

    runtime = directories().runtime
    record = find_record(args.mountpoint, runtime)
    if args.watch:
        _watch(runtime, record, args.watch, as_json=args.json)
    print(_text(_asked(runtime, record), args.json, args.prometheus), end="")
    return 0


def _asked(runtime: Path, record: Record) -> dict[str, Any]:
    from fusemount.daemon.control import ask

    mount = {
        "mountpoint": record.mountpoint,
        "image": record.image,
        "pid": record.pid,
        "since": record.since,
    }
    return {"mount": mount, **ask(runtime, record, "stats")}


def _text(answer: dict[str, Any], as_json: bool, as_prometheus: bool) -> str:
    if as_json:
        return json.dumps(answer, indent=4) + "\n"
    if as_prometheus:
        from fusemount.cli.prometheus import exposition

        return exposition(answer)
    from fusemount.cli.statsreport import report

    return report(answer) + "\n"


def _watch(runtime: Path, record: Record, seconds: float, *, as_json: bool) -> NoReturn:
    """Prints each interval, until ^C or until the mount is gone, which raises an error."""
    from fusemount.cli.statsreport import RATE_HEADS, difference, rate_line, report

    redraw = sys.stdout.isatty() and not as_json
    before = _asked(runtime, record)
    asked = time.monotonic()
    if redraw:
        _draw(f"{_heading(before)}, since {record.since}", report(before))
    elif not as_json:
        print(rate_line(RATE_HEADS), flush=True)
    while True:
        time.sleep(seconds)
        answer = _asked(runtime, record)
        now = time.monotonic()
        made = difference(before["requests"], answer["requests"])
        _show(answer, made, now - asked, redraw=redraw, as_json=as_json)
        before, asked = answer, now


def _show(
    answer: dict[str, Any], made: dict[str, Any], seconds: float, *, redraw: bool, as_json: bool
) -> None:
    """Prints one interval.  redraw: over the last one; else as one more line."""
    from fusemount.cli.statsreport import rate_cells, rate_line, rates

    if as_json:
        print(json.dumps({**answer, "requests": made, "seconds": round(seconds, 3)}), flush=True)
    elif redraw:
        _draw(f"{_heading(answer)}, in {seconds:.1f} s (^C ends)", rates(answer, made, seconds))
    else:
        clock = time.strftime("%H:%M:%S")
        print(rate_line(rate_cells(clock, answer, made, seconds)), flush=True)


def _heading(answer: dict[str, Any]) -> str:
    from fusemount.escape import printable

    return printable(f"{answer['mount']['mountpoint']}: {answer['mount']['image']}")


def _draw(heading: str, text: str) -> None:
    """Draws only the lines that fit the terminal: lines that scroll away cannot be drawn over."""
    columns, rows = shutil.get_terminal_size()
    lines = [heading, "", *text.splitlines()][: max(rows - 1, 1)]
    drive(_CLEAR)
    print("\n".join(line[:columns] for line in lines), flush=True)
