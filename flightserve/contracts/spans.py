"""What runs within a micro-batch says of itself where a request of that is traced (`Context.spans`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from flightserve.tracing.spans import Value
from flightserve.types import RequestMeta


class OpenSpan(Protocol):
    """Something that has begun."""

    def end(self, error: BaseException | None = None) -> None:
        """It is over, by that error where there is one; what is said again is not heard."""
        ...


class SpansWithin(Protocol):
    """Spans below that of the micro-batch. Any thread."""

    def begin(self, name: str, about: Mapping[str, Value]) -> OpenSpan:
        """Something begins here, in the engine for one."""
        ...

    def begin_call(
        self, deployment: str, method: str, parts: Sequence[tuple[int, RequestMeta]]
    ) -> tuple[OpenSpan, list[tuple[int, RequestMeta]]]:
        """A call onwards, of these parts: they go on below its spans, one for each part that is traced."""
        ...
