"""Between two calls of a pipeline: whether a request goes on as its result lies, and whose words its errors are.

A request may carry the calls that follow it. When one of them is answered, its result is the next one's request, if one
region holds all of it, the next deployment is here, and its method takes such columns as they are. Otherwise whoever
sent the request is given the result, is told how far it came, and goes on from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from flightserve.errors import KINDS, ExhaustedMidway, MethodFailed, ResourceExhausted, SchemaMismatch

_MISMATCH: Final = KINDS.index(SchemaMismatch)
_FAILED: Final = KINDS.index(MethodFailed)
_EXHAUSTED: Final = KINDS.index(ResourceExhausted)
_MIDWAY: Final = KINDS.index(ExhaustedMidway)
FOLLOWED_STREAM: Final = "it yields its result batch by batch, which only the last stage of a pipeline may"


def goes_on(results: int, schema_id: int, taken: Sequence[int]) -> bool:
    """Whether a call's result, in so many regions, is the next one's request as it lies. `taken` are the schemas that
    the next method takes as they are; none: it takes any."""
    return results == 1 and (not taken or schema_id in taken)


def told_of_stage(kind: int, message: str, stage: int, where: str, before: str) -> tuple[int, str]:
    """An outcome of the call with that number, of the method `where`: it says so. Columns that a stage cannot take are
    the mistake of the one before, and not of the client, who sees neither: it names both. A later stage that refuses is
    no refusal of the whole: the stages before it have run."""
    if kind == _MISMATCH and stage > 1:
        kind, where = _FAILED, f"{before or 'the stage before'} >> {where}"
    if kind == _EXHAUSTED and stage > 1:
        kind = _MIDWAY
    return kind, f"stage {stage}, {where}: {message}"
