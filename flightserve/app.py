"""What is served together: the deployments of an app, and which of them call which others.

A bound deployment among the arguments of another's `bind()`, also in lists, tuples and dicts there, is served as
well. A `Callee`, its name, takes its place among the arguments, and in each replica an object whose methods call that
deployment (`replica.remote`).

A bound deployment is a value that exists before it can be an argument, so calls cannot go round in a circle, short
of a container that is changed afterwards, and that is refused. Hence a method that waits for an onward call never
waits for its own deployment, and composed deployments cannot block each other for good.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any, Final

from flightserve.declare import (
    Bound,
    ByName,
    Callee,
    Servable,
    Stage,
    calls_of,
    check_name,
    describe_value,
    replaced,
    says_itself,
    spec_of,
)
from flightserve.errors import ConfigError
from flightserve.types import DeploymentSpec

_SERVED: Final = (Bound, Servable)


class App:
    """What is served together: `App(Pricing.bind(tax=0.08), ...)`, or with other names,
    `App(pricing=Pricing.bind(tax=0.08))`. Deployments that are arguments of these are served with them.

    Raises ConfigError for nothing, what is not bound, a name given twice, deployments that call each other in a circle,
    or a class that cannot be served. A warehouse's files and queries are looked at when the app is planned (`serve`).
    """

    def __init__(self, *bound: Bound[Any] | Servable, **named: Bound[Any] | Servable) -> None:
        if not bound and not named:
            raise ConfigError("App() has nothing to serve; give it what is bound, as in App(Pricing.bind())")
        by_own_name = [_bound(value) for value in bound]
        given = [(value.name, value) for value in by_own_name]
        given += [(check_name(name), _bound(value)) for name, value in named.items()]
        self.bound: tuple[Bound[Any], ...] = tuple(_Collecting(given).all())
        seen: set[str] = set()
        for value in self.bound:
            if value.name in seen:
                raise ConfigError(
                    f"two deployments are called {value.name!r}; name one of them, as in "
                    f"App(other={value.cls.__name__}.bind()) or {value.cls.__name__}.bind().options(name='other')"
                )
            seen.add(value.name)
        for value in self.bound:
            # What opens files to know what it serves (a warehouse) is asked when the app is planned: replicas import
            # the module that makes the app, too, and must start while a file that is not theirs is missing.
            if not says_itself(value.cls):
                spec_of(value)

    def with_options(self, changes: Mapping[str, Mapping[str, Any]]) -> App:
        """The same with other options of its deployments, by their names. Raises ConfigError as `Bound.options`."""
        app = copy.copy(self)
        app.bound = tuple(_changed(bound, changes.get(bound.name, {})) for bound in self.bound)
        # What was made of the other options.
        vars(app).pop("specs", None)
        return app

    @functools.cached_property
    def specs(self) -> tuple[DeploymentSpec, ...]:
        """The deployments as the tiers know them. Raises ConfigError for what cannot be served."""
        return tuple(spec_of(value) for value in self.bound)

    def __iter__(self) -> Iterator[Bound[Any]]:
        return iter(self.bound)

    def __len__(self) -> int:
        return len(self.bound)

    def __repr__(self) -> str:
        return f"App({', '.join(value.name for value in self.bound)})"


def _changed(bound: Bound[Any], changes: Mapping[str, Any]) -> Bound[Any]:
    try:
        return bound.options(**changes)
    except ConfigError as error:
        raise ConfigError(f"{bound.name}: {error.message}") from error


def _bound(value: Any) -> Bound[Any]:
    """What is served in the value's place. Raises ConfigError."""
    if isinstance(value, Servable):
        return value.flightserve_bound()
    if not isinstance(value, Bound):
        raise ConfigError(f"App takes what bind() returns, as in App(Pricing.bind()); not {describe_value(value)}")
    return value


def _refuse_stage(stage: Stage, caller: str) -> None:
    """A pipeline's own graph has places for deployments."""
    call = next(calls_of(stage))
    if isinstance(call.deployment, Bound):
        name = call.deployment.name
        raise ConfigError(
            f"{caller} is bound with the stage {stage.label}; give it the deployment, as in fs.bind({name}), and call "
            "its method, or what fs.pipeline() makes of stages"
        )


class _Collecting:
    """Finds the deployments behind those that were given. One object passed to several others is one deployment."""

    def __init__(self, given: list[tuple[str, Bound[Any]]]) -> None:
        self._given = given
        self._names: dict[int, list[str]] = {}
        for name, bound in given:
            self._names.setdefault(id(bound), []).append(name)
        # In the order met; None while its own arguments are looked at.
        self._made: dict[tuple[int, str], Bound[Any] | None] = {}

    def all(self) -> Iterator[Bound[Any]]:
        """Every deployment, callers before what they alone call."""
        for name, bound in self._given:
            self._add(name, bound)
        return (made for made in self._made.values() if made is not None)

    def _add(self, name: str, bound: Bound[Any]) -> None:
        key = (id(bound), name)
        if key in self._made:
            if self._made[key] is None:
                raise ConfigError(f"{name!r} is an argument of itself; deployments cannot call each other in a circle")
            return
        self._made[key] = None
        args = tuple([self._replaced(value, name) for value in bound.args])
        kwargs = {key: self._replaced(value, name) for key, value in bound.kwargs.items()}
        self._made[key] = dataclasses.replace(bound, name=name, args=args, kwargs=kwargs)

    def _replaced(self, value: Any, caller: str) -> Any:
        value = replaced(value, _SERVED, self._callee)
        replaced(value, Stage, lambda stage: _refuse_stage(stage, caller))
        return replaced(value, ByName, lambda named: self._named(named.name, caller))

    def _named(self, name: str, caller: str) -> Callee:
        """The one that the app serves by that name."""
        for served, bound in self._reached:
            if served == name:
                return self._made_callee(name, bound)
        names = ", ".join(served for served, _ in self._reached)
        raise ConfigError(f"{caller} calls {name!r}, which this app does not serve; it serves {names}")

    @functools.cached_property
    def _reached(self) -> list[tuple[str, Bound[Any]]]:
        """What was given and what is behind it, by the names they are served by: also what was not come to yet."""
        reached: dict[tuple[int, str], Bound[Any]] = {}

        def reach(name: str, bound: Bound[Any]) -> None:
            if (id(bound), name) in reached:
                return
            reached[id(bound), name] = bound
            for value in (*bound.args, *bound.kwargs.values()):
                replaced(value, _SERVED, reach_behind)

        def reach_behind(value: Any) -> None:
            bound = _bound(value)
            reach(self._names_of(bound)[0], bound)

        for name, bound in self._given:
            reach(name, bound)
        return [(name, bound) for (_, name), bound in reached.items()]

    def _names_of(self, bound: Bound[Any]) -> list[str]:
        return self._names.get(id(bound), [bound.name])

    def _callee(self, value: Any) -> Callee:
        bound = _bound(value)
        names = self._names_of(bound)
        if len(names) > 1:
            raise ConfigError(
                f"{bound.cls.__name__}.bind() is served as {' and '.join(names)}, and it is an argument of another "
                "deployment, which cannot tell which one to call; bind it twice"
            )
        return self._made_callee(names[0], bound)

    def _made_callee(self, name: str, bound: Bound[Any]) -> Callee:
        self._add(name, bound)
        return Callee(name, self._made[id(bound), name])
