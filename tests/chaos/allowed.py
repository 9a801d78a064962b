"""The faults of docs/explanation/recovery.md as data: which errors one may cause, to which requests, for how long.

An error is allowed where the life of its request (from sending to the outcome) meets the window of a fault that allows
its code to its kind. A window opens when the fault is made and closes when the system was seen whole again, after
`bound_s` at the latest: what comes later is a failure to recover, and its errors are not excused.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from tests.chaos.history import DISCONNECTED, KINDS, ONCE, STREAM

# Between the moment when the supervisor says that all is well and the moment when the last caller sees it.
SLACK_NS: Final = 1_000_000_000
# A replica's replacement: 5 s, and the time it takes to start Python, Ray's part of it and the imports.
REPLACED_S: Final = 15.0
CHANGED_S: Final = 60.0
# A node's processes are started anew: Ray's, a carrier, replicas.
NODE_S: Final = 60.0
# And before that the node is left, for which Ray gives half a minute.
DRAINED_S: Final = 90.0


@dataclass(frozen=True, slots=True)
class Allowance:
    """What one kind of fault may do. `codes` by the request's kind; `own_connections` limits it to requests that went
    to the process that was broken; `delays` says that nobody is there to answer in time meanwhile."""

    codes: dict[str, frozenset[str]] = field(default_factory=dict)
    bound_s: float = REPLACED_S
    own_connections: bool = False
    delays: bool = False


def _codes(*codes: str, kinds: tuple[str, ...] = KINDS) -> dict[str, frozenset[str]]:
    return {kind: frozenset(codes) for kind in kinds}


# A part of a streamed reply that went out cannot be taken back, so a stream is not run again either.
_NOT_AGAIN: Final = _codes("UNAVAILABLE", kinds=(ONCE, STREAM))
# A frontend that took another's place may be asked before it knows what is deployed.
_CUT: Final = _codes(DISCONNECTED, "UNAVAILABLE")

TABLE: Final[dict[str, Allowance]] = {
    "replica-kill": Allowance(_NOT_AGAIN),
    "replica-stop": Allowance(_NOT_AGAIN),
    "replica-slow": Allowance(),
    "router-kill": Allowance(_NOT_AGAIN, bound_s=5.0),
    "router-stop": Allowance(_NOT_AGAIN, bound_s=8.0),
    "frontend-kill": Allowance(_CUT, own_connections=True, delays=True),
    "frontend-stop": Allowance(_CUT, own_connections=True, delays=True),
    "supervisor-kill": Allowance(),
    "supervisor-stop": Allowance(),
    "clients-gone": Allowance(),
    "slow-readers": Allowance(),
    "memory-full": Allowance(_codes("RESOURCE_EXHAUSTED")),
    "scale": Allowance(bound_s=CHANGED_S),
    "deploy": Allowance(bound_s=CHANGED_S),
    "deploy-broken": Allowance(bound_s=CHANGED_S),
    "node-kill": Allowance(_NOT_AGAIN, bound_s=NODE_S),
    "node-cut": Allowance(_NOT_AGAIN, bound_s=NODE_S),
    "node-drain": Allowance(bound_s=DRAINED_S),
    # A replica dies meanwhile, which is replaced when Ray can be asked again.
    "gcs-kill": Allowance(_NOT_AGAIN, bound_s=NODE_S),
}

# A tight deadline may pass at any time, and may be refused because it would.
TIGHT: Final = frozenset({"DEADLINE_EXCEEDED"})
