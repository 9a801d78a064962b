"""What the caller of a pipeline is told of one of its calls."""

from __future__ import annotations

from flightserve.core.routing.chaining import told_of_stage
from flightserve.errors import KINDS, ExhaustedMidway, ResourceExhausted


def test_a_later_stage_that_refuses_is_no_refusal_of_what_ran_before() -> None:
    full = KINDS.index(ResourceExhausted)
    kinds = [KINDS[told_of_stage(full, "the queue is full", stage, "M.run", "A.run")[0]] for stage in (1, 2)]
    assert kinds == [ResourceExhausted, ExhaustedMidway]
