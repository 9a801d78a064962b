"""Trace contexts as W3C writes them (`00-<trace>-<span>-<flags>`), and which requests are traced.

A request that is traced carries one whose flag says so, from tier to tier in the field that it has for that anyway; the
span in it is the parent of what the next tier makes. A request that is not carries what its caller sent, or nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, NamedTuple

_TRACE: Final = slice(3, 35)
_SPAN: Final = slice(36, 52)
# The second digit of the flags: an odd one has the lowest bit.
_FLAG: Final = 54
_SAMPLED: Final = frozenset("13579bdf")
# Its name as a header, and W3C's bounds, https://www.w3.org/TR/trace-context/#tracestate-limits.
TRACESTATE: Final = "tracestate"
STATE_MEMBERS_MAX: Final = 32
STATE_CHARS_MAX: Final = 512
_KEY: Final = r"[a-z][a-z0-9_\-*/]{0,255}|[a-z0-9][a-z0-9_\-*/]{0,240}@[a-z][a-z0-9_\-*/]{0,13}"
_MEMBER: Final = re.compile(rf"(?:{_KEY})=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{{0,255}}[\x21-\x2b\x2d-\x3c\x3e-\x7e]")
TRACE_BITS: Final = 128
SPAN_BITS: Final = 64

# So many random bits.
Bits = Callable[[int], int]


class SpanContext(NamedTuple):
    """A span of a trace, as hexadecimal digits. `state` is what came beside it of tracing systems, their own."""

    trace: str
    span: str
    state: str = ""

    @property
    def traceparent(self) -> str:
        """As a caller writes it who wants the request traced."""
        return f"00-{self.trace}-{self.span}-01"


def is_sampled(traceparent: str) -> bool:
    """Whether the request is traced. What is not as W3C has it, which only a peer may send, is not."""
    return len(traceparent) > _FLAG and traceparent[_FLAG] in _SAMPLED


def read(traceparent: str, tracestate: str = "") -> SpanContext:
    """What a trace context names."""
    return SpanContext(traceparent[_TRACE], traceparent[_SPAN], tracestate)


def known_tracestate(text: str) -> str:
    """The members that W3C's `tracestate` has, as they may be passed on; "" where one of them is malformed or comes
    twice, or they are more than `STATE_MEMBERS_MAX` or longer than `STATE_CHARS_MAX`: then none is anybody's to take
    for whole."""
    if len(text) > STATE_CHARS_MAX:
        return ""
    members = [member for each in text.split(",") if (member := each.strip(" \t"))]
    keys = {member.partition("=")[0] for member in members}
    if len(keys) < len(members) or len(members) > STATE_MEMBERS_MAX or not all(map(_MEMBER.fullmatch, members)):
        return ""
    return ",".join(members)


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
        return SpanContext(parent.trace, self._digits(SPAN_BITS), parent.state)

    def _digits(self, bits: int) -> str:
        # All zeros name nothing.
        return f"{self._bits(bits) or 1:0{bits // 4}x}"
