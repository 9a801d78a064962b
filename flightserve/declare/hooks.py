"""Methods of a class that its replicas call themselves: before the first request, how it is, and that it is over. They
are not served."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from flightserve.core.routing.options import check_amount
from flightserve.declare.decorating import FunctionOrNone, itself
from flightserve.errors import ConfigError

F = TypeVar("F", bound=Callable[..., Any])

# What `@method` and `@single_input` note on a function.
MARKS: Final = "__flightserve_method__"

_HEALTH: Final = "__flightserve_health__"
_STOP: Final = "__flightserve_on_stop__"
_WARMUP: Final = "__flightserve_warmup__"
# The method that is told of another configuration.
RECONFIGURE: Final = "reconfigure"
_FORMS: Final = ("RecordBatch", "Table", "DataFrame")


@dataclass(frozen=True, slots=True)
class Health:
    """How often a replica is asked how it is, how long it may take to answer, and how many failures in a row cost it
    its place. Times in seconds."""

    every_s: float = 5.0
    timeout_s: float = 10.0
    failures: int = 3


def healthy(
    function: FunctionOrNone = itself,  # type: ignore[assignment]
    /,
    *,
    every_s: float = 5.0,
    timeout_s: float = 10.0,
    failures: int = 3,
) -> FunctionOrNone:
    """A method without arguments that says whether this replica is well; it is not served.

    It is called every `every_s` seconds, on a thread of its own beside what runs. To return False, to raise, and to
    take longer than `timeout_s` are failures; so many of them in a row, and another replica takes this one's place. Of
    a deployment's replicas one is replaced at a time, while all others are there.
    """
    for name, value in (("every_s", every_s), ("timeout_s", timeout_s), ("failures", failures)):
        check_amount(f"@healthy({name}=...)", value, zero_allowed=False)

    def note(target: Any) -> Any:
        _note(target, "healthy", _HEALTH, Health(every_s, timeout_s, int(failures)))
        return target

    return note if function is itself else note(function)  # type: ignore[return-value]


def warmup(function: F, /) -> F:
    """A method without arguments that is called once in each replica, after `__init__` and before its first request;
    it is not served. It may call the object's own methods, with rows of its own. Until it has returned the replica is
    not ready; where it raises, the replica has not started. An `async def` one runs where those methods do."""
    _note(function, "warmup", _WARMUP, True)
    return function


def on_stop(function: F, /) -> F:
    """A method without arguments that is called when the replica ends, after its last request; it is not served. It
    has some seconds. A process that is killed calls nobody."""
    _note(function, "on_stop", _STOP, True)
    return function


def _note(function: Any, label: str, mark: str, value: object) -> None:
    if not inspect.isfunction(function):
        raise ConfigError(f"@{label} decorates plain methods; {function!r} is not one")
    needed = [p for p in list(inspect.signature(function).parameters.values())[1:] if p.default is p.empty]
    if any(p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in needed):
        raise ConfigError(f"{function.__qualname__} is @{label}, and is called without arguments")
    setattr(function, mark, value)


def is_hook(function: Any) -> bool:
    """True for a method that replicas call themselves."""
    return any(hasattr(function, mark) for mark in (_HEALTH, _STOP, _WARMUP))


def health_checks(cls: type) -> dict[str, Health]:
    """The names of a class's health checks, its parents' included, and how they are called."""
    return _marked(cls, _HEALTH)


def takes_config(cls: type) -> bool:
    """Whether objects of the class are told of another configuration (`reconfigure(config)`)."""
    raw = inspect.getattr_static(cls, RECONFIGURE, None)
    return raw is not None and inspect.isroutine(raw) and not _takes_rows(raw)


def _takes_rows(raw: Any) -> bool:
    """A method of that name that is served: it is decorated, annotated with what rows come in, or calls them so."""
    static = isinstance(raw, staticmethod)
    function = raw.__func__ if isinstance(raw, staticmethod | classmethod) else raw
    parameters = list(inspect.signature(function).parameters.values())[0 if static else 1 :]
    if hasattr(function, MARKS) or not parameters:
        return True
    first = parameters[0]
    bare = first.annotation is first.empty
    return first.name == "batch" if bare else any(form in str(first.annotation) for form in _FORMS)


def warmups(cls: type) -> list[str]:
    """The names of what is called before the first request, those of parents first."""
    return list(_marked(cls, _WARMUP))


def stop_hooks(cls: type) -> list[str]:
    """The names of what is called at the end, those of parents last."""
    return list(reversed(_marked(cls, _STOP)))


def _marked(cls: type, mark: str) -> dict[str, Any]:
    names = dict.fromkeys(name for parent in reversed(cls.__mro__) for name in vars(parent))
    found = {name: getattr(inspect.getattr_static(cls, name), mark, None) for name in names}
    return {name: value for name, value in found.items() if value is not None}
