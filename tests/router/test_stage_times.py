"""How long a stage takes is learnt from all its micro-batches, however they are answered."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

from flightserve.router.dispatch import Dispatcher
from flightserve.router.links import RunningBatch
from flightserve.types import DeploymentOptions, DeploymentSpec, MethodSpec
from flightserve.wire import frames

MS = 1_000_000


def test_answers_in_shares_are_learnt_from_as_well() -> None:
    spec = DeploymentSpec("M", "1", DeploymentOptions(), (MethodSpec("run"),))
    dispatcher = Dispatcher(spec, itertools.count(1), set(), [])
    dispatcher.times.follow("run")
    request: Any = SimpleNamespace(group=("run", 0), settled=False)
    for batch_id in range(50):
        link: Any = SimpleNamespace(number=1, node="", running={batch_id: RunningBatch([(request, 0, 3)], [])})
        fault = frames.PartFault([0], 13, "bad value")
        done = frames.Done(batch_id, None, 0, True, busy_ns=7 * MS, faults=[fault])
        dispatcher.finish_in_shares(link, done, [], batch_id * MS)
    assert 0 < dispatcher.times.expected_ns("run", 3, 50 * MS) < 30 * MS
