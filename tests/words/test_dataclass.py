"""Our decorator compared with the standard one, its oracle."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import re
import subprocess
from collections.abc import Callable
from dataclasses import FrozenInstanceError, asdict, field, replace
from pathlib import Path
from typing import Any

import pytest

from fusemount.dataclass import dataclass

PACKAGE = Path(__file__).parents[2] / "fusemount"


def classes(made: Callable[..., Any]) -> tuple[Any, Any, Any, Any]:
    @made(frozen=True)
    class Point:
        """A place."""

        x: int
        y: int = 0
        secret: str = field(default="", repr=False)
        names: list[str] = field(default_factory=list)
        origin: int = field(default=0, compare=False)

    @made(frozen=True)
    class Named(Point):
        name: str = "n"

        def __post_init__(self) -> None:
            if self.x < 0:
                raise ValueError("negative")

    @made
    class Mutable:
        a: int
        b: int = 2
        c: int = field(init=False, default=3)

    @made(frozen=True)
    class Own:
        a: int

        def __eq__(self, other: object) -> bool:
            return True

        def __repr__(self) -> str:
            return "own"

    return Point, Named, Mutable, Own


OURS, THEIRS = classes(dataclass), classes(dataclasses.dataclass)


def outcome(act: Callable[..., Any], *given: Any) -> Any:
    try:
        return re.sub(r".*<locals>\.", "", repr(act(*given)))
    except Exception as error:
        return type(error)


def assigned(thing: Any) -> Any:
    thing.a = 7
    return thing


def deleted(thing: Any) -> None:
    del thing.x


ACTS: list[Callable[[Any, Any, Any, Any], Any]] = [
    lambda point, named, mutable, own: point(1),
    lambda point, named, mutable, own: point(1, 2, "s", ["n"]),
    lambda point, named, mutable, own: point(y=3, x=1),
    lambda point, named, mutable, own: point(),
    lambda point, named, mutable, own: point(1, x=2),
    lambda point, named, mutable, own: point(1, z=2),
    lambda point, named, mutable, own: point(1, 2, "", [], 5, 6),
    lambda point, named, mutable, own: named(1, name="m"),
    lambda point, named, mutable, own: named(-1),
    lambda point, named, mutable, own: (point(1).names is point(1).names, point(1).y),
    lambda point, named, mutable, own: (point(1) == point(1), point(1) == point(2)),
    lambda point, named, mutable, own: (point(1) == named(1), point(1) == 1, point(1) != point(1)),
    lambda point, named, mutable, own: hash(point(1, 2, "s", ())),  # type: ignore[arg-type]
    lambda point, named, mutable, own: hash(point(1)),
    lambda point, named, mutable, own: point(1, origin=1) == point(1, origin=2),
    lambda point, named, mutable, own: hash(point(1, names=(), origin=1)),
    lambda point, named, mutable, own: hash(mutable(1)),
    lambda point, named, mutable, own: mutable(1, c=3),
    lambda point, named, mutable, own: mutable(1, 2, 3),
    lambda point, named, mutable, own: (mutable(1) == mutable(1, 2), assigned(mutable(1))),
    lambda point, named, mutable, own: (own(1), own(1) == 5, hash(own(1))),
    lambda point, named, mutable, own: assigned(point(1)),
    lambda point, named, mutable, own: deleted(point(1)),
    lambda point, named, mutable, own: asdict(named(1, names=["a"])),
    lambda point, named, mutable, own: replace(named(1), y=5),
    lambda point, named, mutable, own: replace(named(1), z=5),
    lambda point, named, mutable, own: copy.deepcopy(named(1, names=["a"])),
    lambda point, named, mutable, own: [f.name for f in dataclasses.fields(named)],
    lambda point, named, mutable, own: named.__match_args__,
]


@pytest.mark.parametrize("act", ACTS)
def test_as_the_standard_one(act: Callable[[Any, Any, Any, Any], Any]) -> None:
    assert outcome(act, *OURS) == outcome(act, *THEIRS)


def test_what_is_frozen_says_so() -> None:
    with pytest.raises(FrozenInstanceError, match="cannot assign to field 'x'"):
        OURS[0](1).x = 2


@dataclass(frozen=True)
class Sent:
    a: int


UNKNOWN: list[dict[str, Any]] = [
    {"kw_only": True, "default": 1},
    {"hash": False},
    {"init": False},
    {"init": False, "default_factory": list},
]


@pytest.mark.parametrize("asked", UNKNOWN)
def test_what_is_not_known_is_refused(asked: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="is not known here"):

        @dataclass
        class Unknown:
            a: Any = field(**asked)


def test_it_can_be_sent() -> None:
    assert pickle.loads(pickle.dumps(Sent(1))) == Sent(1)


def test_nobody_takes_the_standard_one() -> None:
    """The standard one compiles each method of each class at every start."""
    found = subprocess.run(
        ["grep", "-rlE", r"^from dataclasses import .*\bdataclass\b|@dataclasses\.dataclass",
         "--include=*.py", str(PACKAGE)], stdout=subprocess.PIPE, text=True, check=False,
    ).stdout.split()  # fmt: skip
    assert found == []
