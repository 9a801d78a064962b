"""A class with the arguments its replicas are made with, and the deployments among those."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, Unpack

from flightserve.declare.handles import Handle
from flightserve.declare.options import Options, check_name, make_options
from flightserve.declare.stages import Chainable, Stage, StageCall
from flightserve.errors import ConfigError, did_you_mean
from flightserve.types import DeploymentOptions

# How deep in an argument's containers other deployments are looked for.
NESTING_MAX: Final = 8

T_co = TypeVar("T_co", covariant=True)

if TYPE_CHECKING:

    class _AsArgument(Handle[T_co], Any):
        """It may be given where the class that is bound with it wants a `Handle`, an object of the class, or nothing in
        particular: what that class gets is neither this nor anything that a type could name."""
else:
    _AsArgument = Generic


class UnknownMethod(ConfigError, AttributeError):
    """A deployment serves no method of that name."""


@dataclass(frozen=True, slots=True)
class Bound(_AsArgument[T_co], Chainable):
    """What `bind` returns: a class, the arguments each of its replicas is made with, its options and the name it is
    served by. Its other attributes are the methods that it serves, as stages of a pipeline (`fs.pipeline`)."""

    cls: type
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    settings: DeploymentOptions
    name: str

    def options(self, *, name: str | None = None, **changes: Unpack[Options]) -> Bound[T_co]:
        """The same with other options or another name. Raises ConfigError as `@deployment` does."""
        return dataclasses.replace(
            self,
            settings=make_options(changes, self.settings),
            name=self.name if name is None else check_name(name),
        )

    def __getattr__(self, method: str, /) -> Stage:  # type: ignore[override]
        return self[method]

    def __getitem__(self, method: str, /) -> Stage:
        """A method as a stage, also where a `Bound` has something of that name itself."""
        if method.startswith("_") or not self._may_serve(method):
            routines = inspect.getmembers_static(self.cls, inspect.isroutine)
            names = [name for name, _ in routines if name[:1] != "_" and name != "bind"]
            hint = did_you_mean(method, names) or f"; it has: {', '.join(names) or 'none'}"
            raise UnknownMethod(f"{self.name} serves no method {method[:128]!r}{hint}")
        return StageCall(self, method)

    def _may_serve(self, method: str) -> bool:
        # What says itself what it serves is asked when the app is planned.
        if hasattr(self.cls, "flightserve_spec"):
            return not method.startswith("flightserve_")
        return inspect.isroutine(inspect.getattr_static(self.cls, method, None))

    def as_stage(self) -> Stage:
        """What is called of it where a pipeline names none of its methods. Raises ConfigError where nothing says."""
        method = getattr(self.cls, "flightserve_stage", None)
        if method is None:
            raise ConfigError(f"{self.name} is a deployment; a stage is one of its methods, as in {self.name}.method")
        return StageCall(self, method)

    def __hash__(self) -> int:
        """It may be a key, as of `fs.split`, whatever its arguments are."""
        return hash((self.cls, self.name))

    def callees(self) -> tuple[str, ...]:
        """Names of the deployments that it calls."""
        found: list[str] = []
        for value in (*self.args, *self.kwargs.values()):
            replaced(value, Callee, lambda callee: found.append(callee.name))
        return tuple(dict.fromkeys(found))

    def make(self, remote: Callable[[str], Any] | None = None) -> Any:
        """A new object of the class, as every replica makes its own. `remote` gives what stands for the deployment
        of a name that it calls; raises ConfigError where it calls one and there is no `remote`."""

        def stand_in(callee: Callee) -> Any:
            if remote is None:
                raise ConfigError(f"{self.name} calls {callee.name}, which is only there when both are served")
            return remote(callee.name)

        args = [replaced(value, Callee, stand_in) for value in self.args]
        kwargs = {key: replaced(value, Callee, stand_in) for key, value in self.kwargs.items()}
        # A class may want to know the name it is served by, by how many replicas, its options, and the names of those
        # that it calls, as arguments that it names.
        told = {
            "flightserve_named": self.name,
            "flightserve_counted": self.settings.replicas,
            "flightserve_options": self.settings,
            "flightserve_callees": self.callees(),
        }
        wanted = {getattr(self.cls, mark): value for mark, value in told.items() if hasattr(self.cls, mark)}
        return self.cls(*args, **kwargs, **wanted)


class Servable(Chainable):
    """What stands for something bound: a warehouse, a model in a file. It may be wherever a `Bound` may, and its other
    attributes are stages, as those of a `Bound` are."""

    name: str

    def flightserve_bound(self) -> Bound[Any]:
        """What is served in its place, the same each time."""
        raise NotImplementedError

    def __getattr__(self, method: str, /) -> Stage:
        if method.startswith("_"):
            # Also our own, of an object that `copy` has not filled yet.
            raise AttributeError(method)
        return self.flightserve_bound()[method]

    def __getitem__(self, method: str, /) -> Stage:
        return self.flightserve_bound()[method]

    def as_stage(self) -> Stage:
        """As of what is bound."""
        return self.flightserve_bound().as_stage()


@dataclass(frozen=True, slots=True)
class Callee:
    """A deployment of the same app, by its name, among the arguments of one that calls it. What is `bound` so called
    is known to the process that made the app; it does not travel."""

    name: str
    bound: Bound[Any] | None = dataclasses.field(default=None, compare=False, repr=False)

    def __reduce__(self) -> tuple[type[Callee], tuple[str]]:
        return Callee, (self.name,)


@dataclass(frozen=True, slots=True)
class ByName:
    """A deployment of the same app, by the name that `App` serves it by, among the arguments of one that calls it."""

    name: str


def replaced(value: Any, kind: type | tuple[type, ...], change: Callable[[Any], Any], depth: int = 0) -> Any:
    """The value with every instance of `kind` in it changed; looked for in lists, tuples and dicts' values, down to
    `NESTING_MAX`. Containers without one are handed back as they are."""
    if isinstance(value, kind):
        return change(value)
    if type(value) not in (list, tuple, dict) or depth == NESTING_MAX:
        return value
    inside = list(value.values() if type(value) is dict else value)
    changed = [replaced(each, kind, change, depth + 1) for each in inside]
    if all(new is old for new, old in zip(changed, inside, strict=True)):
        return value
    return dict(zip(value, changed, strict=True)) if type(value) is dict else type(value)(changed)
