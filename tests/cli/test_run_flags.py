"""`run`: its flags end and the command begins at the right word."""

from __future__ import annotations

import pytest

from fusemount.cli.run import split_command


@pytest.mark.parametrize(
    ("argv", "rest"),
    [
        (["img"], ["img"]),
        (["--rm", "img", "ls", "-l", "--rm"], ["img", "ls", "-l", "--rm"]),
        (["-it", "img", "sh"], ["img", "sh"]),
        (["-itv", "/a:/b", "img"], ["img"]),
        (["-v/a:/b", "img"], ["img"]),
        (["-e", "A=1", "-eB=2", "--env=C", "--env", "D", "img"], ["img"]),
        (["--entrypoint", "", "img"], ["img"]),
        (["--cache-size", "2G", "img"], ["img"]),
        (["img", "--", "x"], ["img", "--", "x"]),
        (["--rm", "--", "-odd-name", "x"], ["-odd-name", "x"]),
        (["-u", "-1", "img"], ["img"]),
        (["-e"], []),
    ],
)
def test_the_first_word_that_is_no_flag_is_the_image(argv: list[str], rest: list[str]) -> None:
    assert split_command(argv)[1] == rest
