"""The parsing of headers and bodies of registries, without any registry."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusemount.registry import replies
from fusemount.registry.challenge import Challenge, parse_challenges
from fusemount.registry.options import Proxies, RegistryOptions, bare_host, is_local, proxies
from fusemount.registry.options import certificate_directories as directories


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        (
            ['Bearer realm="https://auth.test/token",service="reg",scope="repository:a:pull,push"'],
            [
                (
                    "bearer",
                    {
                        "realm": "https://auth.test/token",
                        "service": "reg",
                        "scope": "repository:a:pull,push",
                    },
                )
            ],
        ),
        (["BASIC Realm = x"], [("basic", {"realm": "x"})]),
        (['Basic realm="a \\"b\\" c"'], [("basic", {"realm": 'a "b" c'})]),
        (["Negotiate, Basic realm=x"], [("negotiate", {}), ("basic", {"realm": "x"})]),
        (
            ['Basic realm="x", Bearer realm="y", service=z'],
            [("basic", {"realm": "x"}), ("bearer", {"realm": "y", "service": "z"})],
        ),
        (["Negotiate", "Basic realm=x"], [("negotiate", {}), ("basic", {"realm": "x"})]),
        (['Bearer realm="unended'], [("bearer", {}), ("realm", {})][:1]),
        ([""], []),
    ],
)
def test_challenges(headers: list[str], found: list[tuple[str, dict[str, str]]]) -> None:
    parsed = parse_challenges(headers)
    assert parsed[: len(found)] == tuple(Challenge(*each) for each in found)
    assert all(each.parameters == {} for each in parsed[len(found) :])


@given(st.text(max_size=300))
def test_what_is_parsed_of_any_challenge_is_in_its_text(text: str) -> None:
    for each in parse_challenges([text]):
        names = [each.scheme, *each.parameters]
        assert all(name and name == name.lower() and name in text.lower() for name in names)


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ({"errors": [{"code": "DENIED", "message": "no"}]}, "DENIED: no"),
        ({"errors": [{"code": "A"}, {"message": "b", "detail": {}}]}, "A; b"),
        ({"errors": [{"code": str(n)} for n in range(9)]}, "0; 1; 2"),
        ({"errors": []}, ""),
        ({"errors": "x"}, ""),
        ({"errors": [1]}, ""),
        ({"details": "bad password"}, "bad password"),
        ({"error": "invalid_grant", "error_description": "stale"}, "invalid_grant: stale"),
        ({"message": "line\none"}, "line one"),
        ([], ""),
        ({"message": 7}, ""),
    ],
)
def test_error_bodies(document: object, text: str) -> None:
    assert replies.error_text(json.dumps(document).encode()) == text


@given(st.binary(max_size=200))
def test_any_error_body_is_one_line(data: bytes) -> None:
    assert replies.error_text(data).isprintable()


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("5", 5),
        (" 0 ", 0),
        ("9" * 50, 999999999),
        ("Thu, 01 Jan 1970 00:20:00 GMT", 200),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
        ("-1", None),
        ("soon", None),
        ("²", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after(value: str | None, seconds: float | None) -> None:
    assert replies.retry_after(value, 1000.0) == seconds


@pytest.mark.parametrize(
    ("limit", "remaining", "words"),
    [
        ("100;w=21600", "0;w=21600", "all 100 requests of 6 h are used up"),
        ("100;w=90", "0", "all 100 requests of 90 s are used up"),
        (None, "0", "all requests are used up"),
        ("100;w=21600", "5;w=21600", ""),
        ("100;w=21600", None, ""),
        ("x", "y", ""),
    ],
)
def test_rate_limits(limit: str | None, remaining: str | None, words: str) -> None:
    assert replies.used_up(limit, remaining) == words


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("bytes 0-9/10", (0, 9, 10)),
        ("bytes 5-9/*", (5, 9, None)),
        ("bytes 9-5/10", None),
        ("bytes */10", None),
        (f"bytes 0-{'9' * 30}/10", None),
        (None, None),
    ],
)
def test_content_range(value: str | None, found: object) -> None:
    assert replies.content_range(value) == found


@pytest.mark.parametrize(
    ("value", "count"),
    [("0-9", 10), ("bytes=0-9", 10), ("0-0", 0), ("5-9", None), ("x", None), (None, None)],
)
def test_upload_range(value: str | None, count: int | None) -> None:
    assert replies.uploaded(value) == count


@pytest.mark.parametrize(
    ("values", "target"),
    [
        (['</v2/a?n=1>; rel="next"'], "/v2/a?n=1"),
        (["<x>; rel=next"], "x"),
        (['<p>; rel="prev", <n>; rel="next"'], "n"),
        (['<p>; rel="prev"', '<n>; rel="next"'], "n"),
        (["<p>"], None),
        ([], None),
    ],
)
def test_links(values: list[str], target: str | None) -> None:
    assert replies.next_link(values) == target


@pytest.mark.parametrize(
    ("host", "bare", "local"),
    [
        ("localhost", "localhost", True),
        ("LOCALHOST:5000", "LOCALHOST", True),
        ("127.0.0.1:5000", "127.0.0.1", True),
        ("127.9.9.9", "127.9.9.9", True),
        ("[::1]:5000", "::1", True),
        ("::1", "::1", True),
        ("localhost.evil.test", "localhost.evil.test", False),
        ("127.0.0.1.evil.test:80", "127.0.0.1.evil.test", False),
        ("10.0.0.1", "10.0.0.1", False),
        ("registry-1.docker.io", "registry-1.docker.io", False),
    ],
)
def test_who_is_this_machine(host: str, bare: str, local: bool) -> None:
    assert (bare_host(host), is_local(host)) == (bare, local)


def test_who_is_insecure() -> None:
    options = RegistryOptions(insecure=frozenset(("reg.test", "other.test:5000")))
    assert options.is_insecure("reg.test:8000") and options.is_insecure("REG.test")
    assert options.is_insecure("other.test:5000") and not options.is_insecure("other.test:80")
    assert RegistryOptions(insecure=frozenset("*")).is_insecure("any.test")


def test_an_environment_becomes_options() -> None:
    environment = {"HTTPS_PROXY": "http://p:1", "no_proxy": "a.test, .b.test,", "HOME": "/h"}
    assert proxies(environment) == Proxies("", "http://p:1", ("a.test", ".b.test"))
    system = ["/etc/containers/certs.d", "/etc/docker/certs.d"]
    assert [str(p) for p in directories(environment, 0)] == system
    own = ["/h/.config/containers/certs.d", "/h/.config/docker/certs.d"]
    assert [str(p) for p in directories(environment, 1000)] == own + system
