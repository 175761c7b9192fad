"""`dataclass(frozen=True)` for what a board reads before its first answer: the same, from methods that are written once.

The standard one compiles five methods anew for each class, whenever a program starts: for the manifest and the
preprocessing specs that took longer than all the rest of the runner. Type checkers are shown the standard one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any


def dataclass(*, frozen: bool) -> Callable[[type], type]:
    """As dataclasses.dataclass(frozen=True), without default factories; fields(), replace() and asdict() work."""
    if not frozen:
        raise TypeError("values are frozen")

    def decorate(cls: type) -> type:
        for name, method in _METHODS.items():
            setattr(cls, name, method)
        return dataclasses.dataclass(init=False, repr=False, eq=False)(cls)

    return decorate


def _init(self: Any, *args: Any, **kwargs: Any) -> None:
    fields = dataclasses.fields(self)
    values = {field.name: value for field, value in zip(fields, args)}
    wrong = kwargs.keys() & values.keys() or kwargs.keys() - {field.name for field in fields}
    if len(args) > len(fields) or wrong:
        what = ", ".join(sorted(wrong)) or f"{len(args)} values"
        raise TypeError(f"{type(self).__name__} got {what} twice or too many")
    values.update(kwargs)
    for field in fields:
        if field.name not in values and field.default is dataclasses.MISSING:
            raise TypeError(f"{type(self).__name__} is missing {field.name}")
        vars(self)[field.name] = values.get(field.name, field.default)
    if hasattr(self, "__post_init__"):
        self.__post_init__()


def _eq(self: Any, other: Any) -> Any:
    return vars(self) == vars(other) if type(self) is type(other) else NotImplemented


def _hash(self: Any) -> int:
    return hash(tuple(vars(self).values()))


def _repr(self: Any) -> str:
    return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"


def _refuse(self: Any, name: str, *value: Any) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot change {name} of a {type(self).__name__}")


_METHODS = {
    "__init__": _init,
    "__eq__": _eq,
    "__hash__": _hash,
    "__repr__": _repr,
    "__setattr__": _refuse,
    "__delattr__": _refuse,
}
