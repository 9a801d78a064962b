"""What user code may do, and where: a class whose methods do what the column `what` names, for the fault matrices.

`RAISED` are exceptions, `RETURNED` values that no method should give, `LOOP` what is done to the event loop of the
`async def` methods. `PLACES` are the methods that run an action; in `SILENT` ones nobody sees an exception.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import polars as pl
import pyarrow as pa

import flightserve as fs
from flightserve.errors import NotFound
from flightserve.fabric.memory.stored import Fresh


class OfTheUser(BaseException):
    """No Exception."""


class Mute(Exception):
    """Cannot say what it is."""

    def __str__(self) -> str:
        raise SystemExit("no text")

    __repr__ = __str__


class _Nameless(type):
    @property
    def __name__(cls) -> str:  # type: ignore[override]
        raise KeyboardInterrupt


class Nameless(Exception, metaclass=_Nameless):
    """Its class does not say how it is called, nor it of what class it is."""

    @property
    def __class__(self) -> Any:
        raise OfTheUser


class Unpicklable(Exception):
    """Holds what cannot be pickled, and refuses besides."""

    def __init__(self, lock: Any) -> None:
        super().__init__("with a lock", lock)

    def __reduce__(self) -> Any:
        raise TypeError("not this one")


class Bare(NotFound):
    """An error of ours without its message."""

    def __init__(self) -> None:
        BaseException.__init__(self)


class Text(str):
    """No plain text."""

    __slots__ = ()

    def __format__(self, how: str) -> str:
        raise OfTheUser

    encode = __getitem__ = __len__ = __format__  # type: ignore[assignment]


def _panic() -> BaseException:
    """A panic of polars, which is no Exception: caught where it comes from."""
    try:
        pl.Series([1]).map_elements(lambda x: 1 / 0, return_dtype=pl.Int64)
    except BaseException as error:
        return type(error)("of the user")
    raise AssertionError("polars took it")


def _deep() -> None:
    _deep()


def _recursion() -> BaseException:
    try:
        _deep()
    except RecursionError as error:
        return error
    raise AssertionError("there is no end to the stack")


RAISED: dict[str, Callable[[], BaseException]] = {
    "Exception": lambda: ValueError("of the user"),
    "BaseException": lambda: OfTheUser("of the user"),
    "SystemExit": lambda: SystemExit("of the user"),
    "KeyboardInterrupt": lambda: KeyboardInterrupt("of the user"),
    "GeneratorExit": lambda: GeneratorExit("of the user"),
    "CancelledError": lambda: asyncio.CancelledError("of the user"),
    "StopIteration": lambda: StopIteration("of the user"),
    "StopAsyncIteration": lambda: StopAsyncIteration("of the user"),
    "group": lambda: BaseExceptionGroup("of the user", [SystemExit("of the user"), ValueError("of the user")]),
    "panic": _panic,
    "recursion": _recursion,
    "mute": Mute,
    "nameless": lambda: Nameless("of the user"),
    "unpicklable": lambda: Unpicklable(threading.Lock()),
    "huge": lambda: ValueError("x" * 50_000_000),
    "surrogates": lambda: ValueError("\ud800 of the user"),
    "text": lambda: ValueError(Text("of the user")),
    "ours": lambda: NotFound("of the user"),
    "ours, huge": lambda: NotFound("\ud800" * 8_000_000),
    "ours, no text": lambda: NotFound(b"of the user"),  # type: ignore[arg-type]
    "ours, bare": Bare,
}

RETURNED: dict[str, Any] = {
    "None": None,
    "a number": 3,
    "an object": object(),
    "a class": dict,
    "a function": len,
    "a module": pa,
    "an error": ValueError("not raised"),
    "a coroutine function": asyncio.sleep,
    "bytes": b"abc",
}


def _exit_in_a_task() -> None:
    async def leave() -> None:
        raise SystemExit("of the user")

    _KEPT.append(asyncio.ensure_future(leave()))


def _interrupt_in_a_callback() -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt("of the user")

    asyncio.get_running_loop().call_soon(interrupt)


def _close_the_loop() -> None:
    """Between two of its runs."""
    loop = asyncio.get_running_loop()
    loop.run_forever = loop.close  # type: ignore[method-assign]
    loop.stop()


def _break_the_loop() -> None:
    """Its selector fails from now on."""
    asyncio.get_running_loop()._selector.close()  # type: ignore[attr-defined]


def _cancel_everybody() -> None:
    for task in asyncio.all_tasks():
        task.cancel()


def _cancel_newcomers() -> None:
    """For a while, each turn of the loop: also tasks that have not begun."""
    loop = asyncio.get_running_loop()
    end = loop.time() + 0.3

    def cancel() -> None:
        for task in asyncio.all_tasks(loop):
            task.cancel()
        if loop.time() < end:
            loop.call_soon(cancel)

    loop.call_soon(cancel)


def _cancel_itself() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


def _bad_task_factory() -> None:
    def factory(loop: Any, work: Any, **options: Any) -> Any:
        raise OfTheUser("no tasks")

    asyncio.get_running_loop().set_task_factory(factory)


_KEPT: list[Any] = []
# What is done to the loop, and whether the call itself, which then waits for its own tasks, can be answered by rows.
LOOP: dict[str, tuple[Callable[[], None], bool]] = {
    "exit in a task": (_exit_in_a_task, True),
    "interrupt in a callback": (_interrupt_in_a_callback, True),
    "stop": (lambda: asyncio.get_running_loop().stop(), True),
    "close": (_close_the_loop, False),
    "break": (_break_the_loop, False),
    "cancel itself": (_cancel_itself, False),
    "cancel everybody": (_cancel_everybody, False),
    "task factory": (_bad_task_factory, True),
}


def act(what: str) -> None:
    """Do it."""
    if what in RAISED:
        raise RAISED[what]()


class Odd:
    """A column that acts when it is made one, and again when it is no longer needed."""

    def __init__(self, what: str = "", finally_: str = "") -> None:
        self.what = what
        self.finally_ = finally_

    def __len__(self) -> int:
        return 1

    def __arrow_array__(self, type: Any = None) -> pa.Array:
        act(self.what)
        return pa.array(["x"])

    def __del__(self) -> None:
        act(self.finally_)


class OddRow(dict[str, Any]):
    """A row that acts when it is read."""

    def keys(self) -> Any:
        act(self["what"])
        return super().keys()

    def items(self) -> Any:
        return self.keys()

    __iter__ = keys


class OddScalar(pa.ExtensionScalar):
    """Acts when it becomes a value of Python: in the conversion of a method's input."""

    def as_py(self, **options: Any) -> Any:
        act(self.value.as_py())
        return "x"


class OddType(pa.ExtensionType):
    """Texts that name what they do."""

    def __init__(self) -> None:
        super().__init__(pa.string(), "flightserve.tests.odd")

    def __hash__(self) -> int:
        return hash(self.extension_name)

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type: pa.DataType, serialized: bytes) -> OddType:
        return cls()

    def __arrow_ext_scalar_class__(self) -> type[OddScalar]:
        return OddScalar


def what_of(batch: pa.RecordBatch) -> str:
    """The action that the first row names."""
    return str(batch.column(0)[0].as_py())


@fs.deployment(default_timeout_ms=20_000)
class Unruly:
    """Does what it is told, wherever it is told."""

    def plain(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """In the method."""
        act(what_of(batch))
        return batch

    @fs.single_input
    def single(self, row: dict[str, Any]) -> dict[str, Any]:
        """In the method, for a row."""
        act(row["what"])
        return row

    async def coroutine(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """In the method."""
        await asyncio.sleep(0)
        act(what_of(batch))
        return batch

    @fs.single_input
    async def single_coroutine(self, row: dict[str, Any]) -> dict[str, Any]:
        """In the method, for a row."""
        await asyncio.sleep(0)
        act(row["what"])
        return row

    @fs.method(row_aligned=False)
    def generator(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        """Behind the first batch."""
        yield batch
        act(what_of(batch))

    @fs.method(row_aligned=False)
    async def async_generator(self, batch: pa.RecordBatch) -> AsyncIterator[pa.RecordBatch]:
        """Behind the first batch."""
        yield batch
        act(what_of(batch))

    @fs.single_input
    def argument(self, row: dict[str, Any]) -> dict[str, Any]:
        """While its rows are made."""
        return row

    def result(self, batch: pa.RecordBatch) -> Any:
        """While its result is made into columns."""
        return {"what": Odd(what_of(batch))}

    async def async_result(self, batch: pa.RecordBatch) -> Any:
        """While its result is made into columns."""
        return {"what": Odd(what_of(batch))}

    def written(self, batch: pa.RecordBatch) -> Any:
        """When its result was written."""
        return Fresh(batch, lambda region: act(what_of(batch)))

    async def async_written(self, batch: pa.RecordBatch) -> Any:
        """When its result was written."""
        return Fresh(batch, lambda region: act(what_of(batch)))

    @fs.single_input
    def row_result(self, row: dict[str, Any]) -> Any:
        """While its row is read."""
        return OddRow(row)

    @fs.method(row_aligned=False)
    def yielded(self, batch: pa.RecordBatch) -> Iterator[Any]:
        """While what it yields is made into columns."""
        yield {"what": Odd(what_of(batch))}

    @fs.method(row_aligned=False)
    async def async_yielded(self, batch: pa.RecordBatch) -> AsyncIterator[Any]:
        """While what it yields is made into columns."""
        yield {"what": Odd(what_of(batch))}

    def finaliser(self, batch: pa.RecordBatch) -> Any:
        """When its result is no longer needed."""
        return {"what": Odd(finally_=what_of(batch))}

    async def async_finaliser(self, batch: pa.RecordBatch) -> Any:
        """When its result is no longer needed."""
        return {"what": Odd(finally_=what_of(batch))}

    @fs.method(row_aligned=False)
    def closing(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        """When it is closed behind its last batch."""
        try:
            fs.context().ending()
            yield batch
        finally:
            act(what_of(batch))

    @fs.method(row_aligned=False)
    def returns(self, batch: pa.RecordBatch) -> Any:
        """Anything."""
        return RETURNED[what_of(batch)]

    @fs.method(row_aligned=False)
    async def async_returns(self, batch: pa.RecordBatch) -> Any:
        """Anything."""
        return RETURNED[what_of(batch)]

    @fs.method(row_aligned=False)
    def yields(self, batch: pa.RecordBatch) -> Iterator[Any]:
        """Anything."""
        yield RETURNED[what_of(batch)]

    @fs.single_input
    def row_returns(self, row: dict[str, Any]) -> Any:
        """Anything."""
        return {"a": RETURNED[row["what"]]}

    async def newcomers(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Cancels whatever comes to the loop for a while."""
        _cancel_newcomers()
        await asyncio.sleep(0.05)  # tidy: the loop turns
        return batch

    async def loop(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Does something to the event loop, and then waits for a turn of it."""
        LOOP[what_of(batch)][0]()
        await asyncio.sleep(0.05)  # tidy: the loop turns
        return batch

    async def waits(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """A neighbour on the loop: waits for `fs.context().remaining_ms` to be almost over, or for its end."""
        await asyncio.sleep(0.3)  # tidy: in flight while others act
        return batch

    def good(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Behaves."""
        return batch

    async def async_good(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Behaves."""
        await asyncio.sleep(0)
        return batch


SILENT = ("finaliser", "async_finaliser", "closing")
PLACES = (
    "plain",
    "single",
    "coroutine",
    "single_coroutine",
    "generator",
    "async_generator",
    "argument",
    "result",
    "async_result",
    "written",
    "async_written",
    "row_result",
    "yielded",
    "async_yielded",
    *SILENT,
)
