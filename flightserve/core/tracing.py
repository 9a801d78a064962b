"""Trace contexts as W3C writes them (`00-<trace>-<span>-<flags>`), and which requests are traced.

A request that is traced carries one whose flag says so, from tier to tier in the field that it has for that anyway; the
span in it is the parent of what the next tier makes. A request that is not carries what its caller sent, or nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

_TRACE: Final = slice(3, 35)
_SPAN: Final = slice(36, 52)
# The second digit of the flags: an odd one has the lowest bit.
_FLAG: Final = 54
_SAMPLED: Final = frozenset("13579bdf")
TRACE_BITS: Final = 128
SPAN_BITS: Final = 64

# So many random bits.
Bits = Callable[[int], int]


class SpanContext(NamedTuple):
    """A span of a trace, as hexadecimal digits."""

    trace: str
    span: str

    @property
    def traceparent(self) -> str:
        """As a caller writes it who wants the request traced."""
        return f"00-{self.trace}-{self.span}-01"


def is_sampled(traceparent: str) -> bool:
    """Whether the request is traced. What is not as W3C has it, which only a peer may send, is not."""
    return len(traceparent) > _FLAG and traceparent[_FLAG] in _SAMPLED


def read(traceparent: str) -> SpanContext:
    """What a trace context names."""
    return SpanContext(traceparent[_TRACE], traceparent[_SPAN])


class TraceSampler:
    """Decides which requests are traced, and gives out the numbers of spans. A caller's own context decides where there
    is one; of the others so many: `ratio`, 0 to 1."""

    def __init__(self, ratio: float, bits: Bits) -> None:
        self._bits = bits
        self._below = int(ratio * (1 << SPAN_BITS))

    def __repr__(self) -> str:
        return f"<TraceSampler of {self._below / (1 << SPAN_BITS):g}>"

    def __call__(self, traceparent: str) -> tuple[str, str]:
        """A request has come with this context, or "": the one that it goes on with, and its caller's span."""
        if traceparent:
            if not is_sampled(traceparent):
                return traceparent, ""
            caller = read(traceparent)
            return self.under(caller).traceparent, caller.span
        if self._bits(SPAN_BITS) >= self._below:
            return "", ""
        return SpanContext(self._digits(TRACE_BITS), self._digits(SPAN_BITS)).traceparent, ""

    def under(self, parent: SpanContext) -> SpanContext:
        """A new span of the same trace."""
        return SpanContext(parent.trace, self._digits(SPAN_BITS))

    def _digits(self, bits: int) -> str:
        # All zeros name nothing.
        return f"{self._bits(bits) or 1:0{bits // 4}x}"
