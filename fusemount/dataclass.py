"""Law: replaces `dataclasses.dataclass` by one whose methods are shared by all classes, for a quick
start.

At every start the standard decorator writes and compiles the source of six methods for each class,
which takes 0.3 to 1 ms; a mount imports about sixty such classes.  Here dataclasses only collects
the fields, so `fields`, `replace` and `asdict` work, and a type checker sees the standard
decorator. Supported are frozen, defaults, default_factory, repr=False, compare=False, init=False
with a default, __post_init__ and inheritance; any other option of a field raises TypeError when the
class is made.  Making an object takes about 1 µs longer.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataclasses import dataclass
else:

    def dataclass(cls: type | None = None, /, *, frozen: bool = False) -> Any:
        """As dataclasses.dataclass, for `@dataclass` and `@dataclass(frozen=True)`."""
        return _made(cls, frozen) if cls is not None else lambda cls: _made(cls, frozen)


__all__ = ["dataclass"]


def _made(cls: Any, frozen: bool) -> Any:
    # dataclasses gives a class without a docstring its signature, which takes long to compute.
    cls.__doc__ = cls.__doc__ or cls.__name__
    made = dataclasses.dataclass(init=False, repr=False, eq=False)(cls)
    made.__shape__ = _Shape(made)
    given: dict[str, Any] = {"__init__": _init, "__eq__": _eq, "__repr__": _repr,
                             "__hash__": _hash if frozen else None}  # fmt: skip
    if frozen:
        given |= {"__setattr__": _setattr, "__delattr__": _delattr}
    own = vars(made)
    for name, method in given.items():
        # Python sets __hash__ to None in a class that defines __eq__.
        if name not in own or (name == "__hash__" and own[name] is None):
            setattr(made, name, method)
    return made


class _Shape:
    """The fields of a class, in their order, for the shared methods."""

    __slots__ = ("after", "compared", "defaults", "factories", "name", "names", "shown")

    def __init__(self, cls: Any) -> None:
        fields = dataclasses.fields(cls)
        missing = dataclasses.MISSING
        self.name = cls.__name__
        self.names = tuple(f.name for f in fields if f.init)
        for f in fields:
            if f.kw_only or f.hash is not None or not (f.init or f.default is not missing):
                raise TypeError(f"{self.name}.{f.name}: asks for what is not known here")
        self.compared = tuple(f.name for f in fields if f.compare)
        self.shown = tuple(f.name for f in fields if f.repr)
        self.defaults = {f.name: f.default for f in fields if f.default is not missing}
        self.factories = {f.name: f.default_factory for f in fields
                          if f.default_factory is not missing}  # fmt: skip
        self.after = hasattr(cls, "__post_init__")

    def values(self, instance: Any) -> tuple[Any, ...]:
        """The values that are compared."""
        return tuple([getattr(instance, name) for name in self.compared])


def _init(self: Any, /, *given: Any, **named: Any) -> None:
    shape: _Shape = self.__shape__
    put = object.__setattr__  # that of a frozen class raises
    for name, value in zip(shape.names, given, strict=False):
        put(self, name, value)
    if len(given) != len(shape.names) or named:
        for name in shape.names[len(given) :]:
            if name in named:
                put(self, name, named.pop(name))
            elif name in shape.defaults:
                put(self, name, shape.defaults[name])
            elif name in shape.factories:
                put(self, name, shape.factories[name]())
            else:
                raise TypeError(f"{shape.name}() takes a {name!r}, which is missing")
        if named or len(given) > len(shape.names):
            what = ", ".join(named) or f"{len(given)} values"
            raise TypeError(f"{shape.name}() does not take, or not twice: {what}")
    if shape.after:
        self.__post_init__()


def _eq(self: Any, other: Any) -> Any:
    if other.__class__ is not self.__class__:
        return NotImplemented
    shape: _Shape = self.__shape__
    return shape.values(self) == shape.values(other)


def _hash(self: Any) -> int:
    shape: _Shape = self.__shape__
    return hash(shape.values(self))


def _repr(self: Any) -> str:
    shape: _Shape = self.__shape__
    shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in shape.shown)
    return f"{self.__class__.__qualname__}({shown})"


def _setattr(self: Any, name: str, value: Any) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")


def _delattr(self: Any, name: str) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")
