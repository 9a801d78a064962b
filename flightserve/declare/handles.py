"""Another deployment as the object that was bound with it has it: its types, and calls that type checkers follow.

No type of Python's says "each method of `Model`, with `aio` and `later` beside it". So there are two annotations, and
each says what it can. `fs.Handle[Model]` is what the object gets: any name is a method, which takes rows and gives a
record batch. `Model` is what the object is like: checkers and editors know its methods and their arguments, and `aio`
and `later` are functions, which take such a method. These run methods of plain objects as well, so that a test needs no
deployments.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Protocol, TypeAlias, TypeVar, overload

import pyarrow as pa

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
T_co = TypeVar("T_co", covariant=True)


class ArrowStream(Protocol):
    """A table, or a frame of polars, pandas and whatever else has Arrow's own protocol."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Arrow's."""
        ...


# What goes to another deployment.
Rows: TypeAlias = pa.RecordBatch | ArrowStream | dict[str, Any]


class Handle(Generic[T_co]):
    """Another deployment of the app, as an object has it that was bound with it: `fs.Handle[Model]`.

    Its attributes are the methods that the deployment serves. To type checkers each of them is a `HandleMethod`,
    whatever its name, because no type says more; annotate with `Model` itself to have names and arguments checked."""

    __slots__ = ()

    if TYPE_CHECKING:

        def __getattr__(self, method: str, /) -> HandleMethod: ...


class HandleMethod(Protocol):
    """A method of another deployment. It takes a record batch, a table, a frame or a dict of columns, and gives a
    record batch. Of a generator it gives an iterator, `aio` an asynchronous one, of the batches that it yields."""

    def __call__(self, rows: Rows, /) -> pa.RecordBatch:
        """Call it and wait. For methods that run on a thread; in `async def` methods it raises RuntimeError, unless the
        method that is called is an `async def` as well: then it is as `aio`."""
        ...

    def aio(self, rows: Rows, /) -> OnwardCall:
        """Call it from an `async def` method: to be awaited, or iterated over where it yields batches."""
        ...

    def later(self, rows: Rows, /) -> Later[pa.RecordBatch]:
        """Begin to call it; ask for the rows when they are needed. As many calls as are begun run side by side."""
        ...


class Later(Protocol[R_co]):
    """A call that has begun. One that is dropped is given up."""

    @property
    def streaming(self) -> bool:
        """The method yields batches: iterate over `batches`."""
        ...

    def result(self) -> R_co:
        """Wait for the rows. Raises the FlightserveError that the method's deployment answers, and TypeError where the
        method yields batches."""
        ...

    def batches(self) -> Iterator[pa.RecordBatch]:
        """What a method yields, as it comes. Raises as `result`."""
        ...

    def cancel(self) -> None:
        """Give it up. Idempotent."""
        ...


if TYPE_CHECKING:

    class OnwardCall(Coroutine[Any, Any, pa.RecordBatch], AsyncIterator[pa.RecordBatch]):
        """One of the two. Which one the method's deployment says, and no type does."""


# Coroutines first: where a result's type is not known, pyright takes the first.
@overload
def aio(
    method: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
) -> Coroutine[Any, Any, R]: ...
@overload
def aio(  # type: ignore[overload-overlap]
    method: Callable[P, AsyncIterator[R] | Iterator[R]], /, *args: P.args, **kwargs: P.kwargs
) -> AsyncIterator[R]: ...
@overload
def aio(method: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]: ...
def aio(method: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """`await fs.aio(self.model.score, batch)`: call another deployment's method from an `async def` method, as
    `await self.model.score.aio(batch)` does, with arguments and result that type checkers compare with the method's
    own. Of a method that yields batches: `async for batch in fs.aio(self.model.walk, rows)`. A method of an object that
    is no deployment is run as it is, one that is no `async def` on a thread."""
    onward = getattr(method, "aio", None)
    if onward is not None:
        return onward(*args, **kwargs)
    if inspect.isasyncgenfunction(method) or inspect.iscoroutinefunction(method):
        return method(*args, **kwargs)
    if inspect.isgeneratorfunction(method):
        return _iterate(method(*args, **kwargs))
    return asyncio.to_thread(method, *args, **kwargs)


async def _iterate(batches: Iterator[R]) -> AsyncIterator[R]:
    for batch in batches:
        yield batch


def later(method: Callable[P, Coroutine[Any, Any, R] | R], /, *args: P.args, **kwargs: P.kwargs) -> Later[R]:
    """`call = fs.later(self.model.score, batch)`, then `call.result()`: begin to call another deployment's method, as
    `self.model.score.later(batch)` does, with arguments and result that type checkers compare with the method's own. A
    method of an object that is no deployment has run when this returns."""
    onward: Callable[P, Later[R]] | None = getattr(method, "later", None)
    return _Done(method, args, kwargs) if onward is None else onward(*args, **kwargs)


class _Done(Later[Any]):
    """The call of a plain object's method: done when it is begun."""

    def __init__(self, method: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self._value: Any = None
        self._error: Exception | None = None
        try:
            value = method(*args, **kwargs)
            self._value = asyncio.run(value) if inspect.iscoroutine(value) else value
        except Exception as error:  # the method's own: told where the result is asked for
            self._error = error

    @property
    def streaming(self) -> bool:
        return inspect.isgenerator(self._value)

    def result(self) -> Any:
        if self._error is not None:
            raise self._error
        if self.streaming:
            raise TypeError("the method yields batches; iterate over batches()")
        return self._value

    def batches(self) -> Iterator[pa.RecordBatch]:
        if self._error is not None:
            raise self._error
        yield from self._value

    def cancel(self) -> None:
        self._value = None
