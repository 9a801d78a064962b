"""The answers to a call that a method made onwards, put together as the one batch that it asked for."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from flightserve.caller.results import SharedSlice
from flightserve.contracts.service import Result
from flightserve.errors import FlightserveError, MethodFailed
from flightserve.fabric.memory.batches import alike
from flightserve.replica.origins import Origins
from flightserve.types import MethodSpec


class Answers:
    """What the requests of one call are answered by: each by one result, or by several where it was sliced.

    The callee may have answered some requests by other columns or types than others, which follow from their rows. One
    batch would have to make one of them, and so change what a stranger's request is answered by. Where the method may
    run again that is an error, and each request is run by itself; otherwise they are made alike as far as they go.
    """

    __slots__ = ("_callee", "_mixable", "_origins", "_results", "_spec", "error", "open")

    def __init__(self, spec: MethodSpec, callee: str, requests: int, separable: bool, origins: Origins) -> None:
        """`separable`: the caller can be run for each of the requests alone. `origins` are told where the rows lie."""
        self._origins = origins
        self._spec = spec
        self._callee = callee
        self._mixable = requests == 1 or not separable
        self._results: list[list[Result]] = [[] for _ in range(requests)]
        # How many have more to come.
        self.open = requests
        self.error: FlightserveError | None = None

    def __repr__(self) -> str:
        return f"<Answers of {self._callee}: {self.open} of {len(self._results)} open>"

    def add(self, request: int, result: Result | None, last: bool) -> None:
        """A part of one request's answer."""
        if result is not None:
            self._results[request].append(result)
        self.open -= last

    def take_error(self) -> FlightserveError:
        """What one of them failed by: to be raised, and held by nobody else."""
        error, self.error = self.error, None
        assert error is not None
        return error

    def clear(self) -> None:
        """Let go of all rows."""
        self._results = []

    def join(self) -> pa.RecordBatch:
        """All rows, in the requests' order; copied only where they lie apart. Raises MethodFailed where they do not
        make one batch, or one would change what is in them."""
        batches = [self._origins.take(result) for result in self._runs()]
        first = batches[0].schema
        if not self._mixable and not all(batch.schema.equals(first, check_metadata=True) for batch in batches[1:]):
            batches = []
            raise MethodFailed(
                f"{self._callee} answered the requests of one micro-batch by different columns or types; each is asked "
                "for again by itself. Declare what it returns: @method(output=...)"
            )
        batches = alike(batches, self._spec)
        return batches[0] if len(batches) == 1 else pa.concat_batches(batches)

    def _runs(self) -> list[Result]:
        """The results, in order: neighbours in one region as one, and none without rows beside those that have some."""
        results = [result for own in self._results for result in own]
        filled = [result for result in results if result.num_rows]
        return list(_neighbours(filled)) if filled else results[:1]


def _neighbours(results: list[Result]) -> Iterator[Result]:
    before: Result | None = None
    for result in results:
        if (
            isinstance(before, SharedSlice)
            and isinstance(result, SharedSlice)
            and before.shared is result.shared
            and before.offset + before.num_rows == result.offset
        ):
            before = SharedSlice(before.shared, before.offset, before.num_rows + result.num_rows)
            continue
        if before is not None:
            yield before
        before = result
    if before is not None:
        yield before
