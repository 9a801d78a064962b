"""The types of a decorator that is written bare or with options: `@deployment`, `@deployment(replicas=2)`.

Two overloads say the same, but of overloads type checkers only tell that none fits. One signature lets them name the
option that is wrong. What is decorated has `itself` as its default: what a decorator with options then returns,
decorates.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

C = TypeVar("C", bound=type)
F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


class ClassDecorator(Protocol):
    """Gives the class that it takes."""

    def __call__(self, cls: C, /) -> C:
        """Decorate it."""
        ...


class FunctionDecorator(Protocol):
    """Gives the function that it takes."""

    def __call__(self, function: F, /) -> F:
        """Decorate it."""
        ...


def itself(target: T, /) -> T:
    """What is to be decorated where nothing is given yet."""
    return target


if TYPE_CHECKING:
    # Python's own has defaults from 3.13 on; type checkers come with this one.
    from typing_extensions import TypeVar as DefaultedTypeVar

    ClassOrNone = DefaultedTypeVar("ClassOrNone", bound="type | ClassDecorator", default=ClassDecorator)
    FunctionOrNone = DefaultedTypeVar("FunctionOrNone", bound=Callable[..., Any], default=FunctionDecorator)
else:
    ClassOrNone = TypeVar("ClassOrNone")
    FunctionOrNone = TypeVar("FunctionOrNone")
