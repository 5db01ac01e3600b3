"""The part of Go's templates that `--format` takes; test_docker_listing.py asks docker itself."""

from __future__ import annotations

import pytest

from fusemount.cli.tables import formatted
from fusemount.cli.template import Map, Template
from fusemount.errors import UsageError

VALUE = {
    "Id": "sha256:ab",
    "Tags": ["a:1", "b:2"],
    "Config": {"Cmd": ["/bin/sh"], "Labels": Map({"k": "v", "a.b": "c"}), "Tty": False},
    "Size": 12,
    "Nothing": None,
    "List": [{"A": "x"}, {"A": "y"}],
}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("", ""),
        ("plain }} text", "plain }} text"),
        ("{{.Id}}:{{.Size}}", "sha256:ab:12"),
        ("{{ .Config.Cmd }}{{.Config.Tty}}", "[/bin/sh]false"),
        ("{{.Config.Labels}}", "map[a.b:c k:v]"),
        ("{{json .Tags}} {{.Tags | json}}", '["a:1","b:2"] ["a:1","b:2"]'),
        ("{{json .Config.Labels}}", '{"k":"v","a.b":"c"}'),
        ('{{index .Tags 1}} {{index .Config.Labels "a.b"}}', "b:2 c"),
        ('{{index .Config.Labels "no"}}|{{.Config.Labels.no}}', "|<no value>"),
        ("{{len .Tags}} {{len .Id}}", "2 9"),
        ('{{join .Tags ", "}} {{upper .Id}} {{lower "A"}}', "a:1, b:2 SHA256:AB a"),
        ('{{index (split .Id ":") 1}} {{truncate .Id 3}} {{title "a b"}}', "ab sha A B"),
        ("{{(index .List 1).A}}{{len (index .List 0).A}}", "y1"),
        ("a {{- .Size -}} b", "a12b"),
        ("{{.Nothing}}", "<no value>"),
        ("{{/* nothing */}}x", "x"),
        ('{{`a"b`}}', 'a"b'),
    ],
)
def test_what_people_write_is_filled_as_go_fills_it(template: str, text: str) -> None:
    assert Template(template).fill(VALUE) == text


@pytest.mark.parametrize(
    ("template", "named"),
    [
        ("{{range .Tags}}{{.}}{{end}}", "'range'"),
        ("{{if .Id}}x{{end}}", "'if'"),
        ("{{$x := 1}}", "'$x'"),
        ("{{printf .Id}}", "'printf'"),
        ("{{.Id", "'{{.Id'"),
        ("{{}}", "nothing in it"),
        ("{{.No}}", "no .No, only .Id"),
        ("{{.Config.No}}", "no .Config.No, only .Cmd"),
        ("{{.Id.No}}", ".Id is a text"),
        ("{{.Nothing.No}}", ".Nothing is not there"),
        ("{{json}}", "json takes 1"),
        ("{{index .Tags 2}}", "out of range"),
        ("{{len .Size}}", "len:"),
        ("{{.Id .Size}}", "'.Size' is not expected"),
        ("{{json (.Id}}", "no ) closes it"),
        ('{{"a}}', '"a'),
    ],
)
def test_what_is_not_known_is_one_error_that_names_it(template: str, named: str) -> None:
    with pytest.raises(UsageError) as caught:
        Template(template).fill(VALUE)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


HEADS = {"ID": "IMAGE ID", "Tag": "TAG"}
ROWS = [{"Tag": "latest", "ID": "0123456789ab"}, {"Tag": "1", "ID": "ab"}]


@pytest.mark.parametrize(
    ("template", "lines"),
    [
        ("{{.ID}}\\t{{.Tag}}", ["0123456789ab\tlatest", "ab\t1"]),
        ("table {{.ID}}\\t{{.Tag}}",
         ["IMAGE ID       TAG", "0123456789ab   latest", "ab             1"]),
        ("table {{.Tag}}\t{{json .ID}}",
         ["TAG       IMAGE ID", 'latest    "0123456789ab"', '1         "ab"']),
        ("json", ['{"ID":"0123456789ab","Tag":"latest"}', '{"ID":"ab","Tag":"1"}']),
    ],
)  # fmt: skip
def test_rows_are_aligned_as_docker_aligns_them(template: str, lines: list[str]) -> None:
    assert formatted(ROWS, HEADS, template).splitlines() == lines


def test_a_field_that_is_not_there_is_an_error_without_rows_too() -> None:
    with pytest.raises(UsageError, match=r"no \.Name, only \.ID, \.Tag"):
        formatted([], HEADS, "{{.Name}}")
