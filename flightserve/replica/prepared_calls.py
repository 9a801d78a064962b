"""A call onwards that is about to be made: what is asked of whom, for whom, and how its errors read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pyarrow as pa

from flightserve.contracts.context import Context
from flightserve.contracts.service import Passed
from flightserve.contracts.spans import OpenSpan
from flightserve.errors import Cancelled, FlightserveError
from flightserve.replica.answers import Answers
from flightserve.replica.origins import Origins
from flightserve.replica.stages import of_callee, of_chain, of_stage
from flightserve.types import MethodSpec, RequestMeta


class PreparedCall(NamedTuple):
    """A call that is about to be made. `caller` and `callee` are Deployment.method."""

    context: Context
    deployment: str
    spec: MethodSpec
    rows: pa.RecordBatch | Passed
    origins: Origins
    parts: Sequence[tuple[int, RequestMeta]]
    # In a pipeline, the stage that answered the rows, "" for the request's own; None elsewhere.
    source: str | None = None
    # The calls that follow, and the method that answers.
    then: tuple[tuple[str, str], ...] = ()
    last: MethodSpec | None = None
    # Where a request that it is made for is traced.
    span: OpenSpan | None = None

    @property
    def answering(self) -> MethodSpec:
        """The method whose answer this call is."""
        return self.last or self.spec

    @property
    def callee(self) -> str:
        return f"{self.deployment}.{self.spec.name}"

    @property
    def caller(self) -> str:
        return f"{self.context.deployment}.{self.context.method}"

    @property
    def answers(self) -> Answers:
        """To be collected."""
        # Where the method may not run again, what its requests have to be told apart by is lost on it.
        return Answers(self.answering, self.callee, len(self.parts), self.context.idempotent, self.origins)

    def ended(self, error: BaseException | None = None) -> None:
        """For its trace; the first word counts."""
        if self.span is not None:
            self.span.end(error)

    def explain(self, error: FlightserveError) -> FlightserveError:
        """What the call failed by, as who called is told of it."""
        self.ended(error)
        if self.source is None:
            return of_callee(error, self.callee, self.caller)
        if self.then:
            return of_chain(error, self.callee, self.source)
        return of_stage(error, self.callee, self.source)

    def check(self) -> None:
        """Raises Cancelled where there is nobody to call for any more."""
        if self.context.cancelled:
            raise Cancelled(f"{self.callee}: nobody waits for the caller's result any more")
        if self.context.over:
            raise Cancelled(
                f"{self.callee} was called for a request whose method, {self.caller}, has returned; what shall outlive "
                "methods is started where none runs, as in __init__, or in a context of its own: "
                "contextvars.Context().run(thread.start)"
            )
