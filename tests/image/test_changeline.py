"""`--change` lines edit a config as `docker commit --change` does; a bad line is a clear error."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fusemount.digest import Digest
from fusemount.errors import UsageError
from fusemount.image.changeline import apply_changes
from fusemount.image.nextconfig import Step, committed_config, rfc3339
from fusemount.image.parse import parse_config

BASE = {
    "Env": ["PATH=/bin", "HOME=/root"],
    "Cmd": ["/bin/sh"],
    "Labels": {"old": "1"},
    "WorkingDir": "/srv",
    "Unknown": [1],
}


@pytest.mark.parametrize(
    ("line", "key", "value"),
    [
        ('CMD ["a", "b c"]', "Cmd", ["a", "b c"]),
        ("CMD echo $HOME 'x'", "Cmd", ["/bin/sh", "-c", "echo $HOME 'x'"]),
        ("CMD [not json", "Cmd", ["/bin/sh", "-c", "[not json"]),
        ("cmd exec", "Cmd", ["/bin/sh", "-c", "exec"]),
        ('ENTRYPOINT ["/init"]', "Entrypoint", ["/init"]),
        ("ENTRYPOINT exec top", "Entrypoint", ["/bin/sh", "-c", "exec top"]),
        ("ENV A=1", "Env", ["PATH=/bin", "HOME=/root", "A=1"]),
        ("ENV A=1 B='two words' C=\"$HOME/x\"", "Env",
         ["PATH=/bin", "HOME=/root", "A=1", "B=two words", "C=/root/x"]),
        ("ENV PATH=/opt:$PATH", "Env", ["PATH=/opt:/bin", "HOME=/root"]),
        ("ENV A the rest of it", "Env", ["PATH=/bin", "HOME=/root", "A=the rest of it"]),
        ("ENV A=a\\ b", "Env", ["PATH=/bin", "HOME=/root", "A=a b"]),
        ("ENV A='$HOME' B=\\$HOME", "Env", ["PATH=/bin", "HOME=/root", "A=$HOME", "B=$HOME"]),
        ("ENV A=${HOME}x B=${NO:-dflt} C=${HOME:+set} D=${NO}", "Env",
         ["PATH=/bin", "HOME=/root", "A=/rootx", "B=dflt", "C=set", "D="]),
        ("ENV A=", "Env", ["PATH=/bin", "HOME=/root", "A="]),
        ('LABEL a=1 "b c"="d e"', "Labels", {"old": "1", "a": "1", "b c": "d e"}),
        ("LABEL old=2", "Labels", {"old": "2"}),
        ("USER 7:8", "User", "7:8"),
        ("WORKDIR /a/../b", "WorkingDir", "/a/../b"),
        ("WORKDIR ../x/", "WorkingDir", "/x"),
        ("WORKDIR sub/dir", "WorkingDir", "/srv/sub/dir"),
        ("WORKDIR $HOME", "WorkingDir", "/root"),
        ("EXPOSE 80", "ExposedPorts", {"80/tcp": {}}),
        ("EXPOSE 53/udp 8000-8002/TCP", "ExposedPorts",
         {"53/udp": {}, "8000/tcp": {}, "8001/tcp": {}, "8002/tcp": {}}),
        ("VOLUME /a /b", "Volumes", {"/a": {}, "/b": {}}),
        ('VOLUME ["/a b", "/c"]', "Volumes", {"/a b": {}, "/c": {}}),
        ("STOPSIGNAL SIGINT", "StopSignal", "SIGINT"),
        ("STOPSIGNAL 9", "StopSignal", "9"),
        ("STOPSIGNAL SIGRTMIN+3", "StopSignal", "SIGRTMIN+3"),
    ],
)  # fmt: skip
def test_a_line_is_what_docker_makes_of_it(line: str, key: str, value: object) -> None:
    edited = apply_changes(BASE, [line])
    assert edited[key] == value
    rest = {k: v for k, v in edited.items() if k != key}
    kept = {k: v for k, v in BASE.items() if k != key}
    if line.startswith("ENTRYPOINT"):
        kept.pop("Cmd")  # it belongs to the old entrypoint
    assert rest == kept


def test_lines_apply_in_order() -> None:
    lines = ["ENV A=1", "ENV B=$A$A", 'CMD ["c"]', 'ENTRYPOINT ["e"]', "WORKDIR /x", "WORKDIR y"]
    edited = apply_changes(BASE, lines)
    assert edited["Env"][-2:] == ["A=1", "B=11"] and edited["WorkingDir"] == "/x/y"
    assert (edited["Cmd"], edited["Entrypoint"]) == (["c"], ["e"])


def test_an_empty_command_takes_it_away() -> None:
    assert "Cmd" not in apply_changes(BASE, ["CMD []"])
    assert "Entrypoint" not in apply_changes({"Entrypoint": ["e"]}, ["ENTRYPOINT []"])


@pytest.mark.parametrize(
    "line",
    ["", "   ", "RUN make", "ONBUILD RUN x", "ENV", "ENV =x", "ENV A=1 B", "ENV A='open",
     "ENV A=${open", "ENV A=${a b}", "LABEL", "LABEL x=1 y", "USER", "USER ''", "WORKDIR",
     "EXPOSE", "EXPOSE http", "EXPOSE 0", "EXPOSE 70000", "EXPOSE 9-8", "EXPOSE 1/icmp", "VOLUME",
     "VOLUME []", 'VOLUME [1]', 'CMD ["a", 1]', "STOPSIGNAL", "STOPSIGNAL SIGNOPE", "STOPSIGNAL 0",
     "ENV A=\udcff"],
)  # fmt: skip
def test_a_bad_line_is_named(line: str) -> None:
    with pytest.raises(UsageError) as caught:
        apply_changes(BASE, [line])
    assert str(caught.value).startswith("--change ") and len(str(caught.value).splitlines()) == 1


def config(**more: Any) -> Any:
    document = {
        "architecture": "arm64", "os": "linux", "variant": "v8", "config": BASE, "author": "them",
        "container_config": {"Cmd": ["x"]}, "container": "0123", "moby.buildkit.x": "kept",
        "history": [{"created_by": "one", "x": 1}, {"created_by": "env", "empty_layer": True}],
        **more,
    }  # fmt: skip
    return parse_config(json.dumps(document).encode(), "test")


A, B = Digest.of(b"a"), Digest.of(b"b")


def test_a_step_is_added_and_the_rest_kept() -> None:
    step = Step(1_700_000_000 * 10**9, ("USER u",), author="me", comment="why")
    document = json.loads(committed_config(config(), [A], B, step))
    assert document["rootfs"] == {"type": "layers", "diff_ids": [A, B]}
    assert document["config"] == {**BASE, "User": "u"}
    assert document["history"][:2] == [{"created_by": "one", "x": 1},
                                       {"created_by": "env", "empty_layer": True}]  # fmt: skip
    assert document["history"][2] == {
        "created": "2023-11-14T22:13:20Z", "created_by": "imgmount commit", "author": "me",
        "comment": "why",
    }  # fmt: skip
    assert (document["created"], document["author"]) == ("2023-11-14T22:13:20Z", "me")
    assert (document["architecture"], document["variant"]) == ("arm64", "v8")
    assert document["moby.buildkit.x"] == "kept"
    assert not {"container", "container_config"} & document.keys()


def test_a_step_without_a_layer_says_so() -> None:
    document = json.loads(committed_config(config(), [A], None, Step(0)))
    assert document["rootfs"]["diff_ids"] == [A] and document["history"][2]["empty_layer"] is True
    assert document["author"] == "them"


def test_a_history_too_short_is_filled_up() -> None:
    """Without it the new step would be taken for that of a lower layer."""
    document = json.loads(committed_config(config(history=[]), [A, B], A, Step(0)))
    assert [bool(step.get("created_by")) for step in document["history"]] == [False, False, True]


@pytest.mark.parametrize(
    ("ns", "text"),
    [(0, "1970-01-01T00:00:00Z"), (1_500_000_000, "1970-01-01T00:00:01.5Z"),
     (1, "1970-01-01T00:00:00.000000001Z"), (253402300799 * 10**9, "9999-12-31T23:59:59Z")],
)  # fmt: skip
def test_times_are_gos(ns: int, text: str) -> None:
    assert rfc3339(ns) == text
