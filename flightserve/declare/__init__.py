"""What users write: classes become deployments, their public methods are served.

`@deployment(...)` leaves the class what it was, a plain class that is instantiated and tested without
flightserve, and adds `bind`, which notes the arguments its replicas are made with (`bound`). `@single_input` and
`@method(...)` leave notes on functions (`decorators`), `@warmup`, `@healthy` and `@on_stop` on those that replicas call
themselves (`hooks`). What an object has that was bound with another deployment is in `handles`. `App`
(`flightserve.app`) collects what is bound; `spec_of` turns one of them into the `DeploymentSpec` that the tiers share
(`specs`).
"""

from flightserve.declare.bound import NESTING_MAX, Bound, ByName, Callee, Servable, replaced
from flightserve.declare.decorators import bind, deployment, method, single_input
from flightserve.declare.gathering import gather, side_by_side
from flightserve.declare.handles import Handle, HandleMethod, Later, Rows, aio, later
from flightserve.declare.hooks import (
    RECONFIGURE,
    Health,
    health_checks,
    healthy,
    on_stop,
    stop_hooks,
    takes_config,
    warmup,
    warmups,
)
from flightserve.declare.options import NAME, Options, autoscale, check_name, describe_value, make_options
from flightserve.declare.specs import first_paragraph, left_out, says_itself, spec_of
from flightserve.declare.stages import (
    Chain,
    Chainable,
    Join,
    Stage,
    StageCall,
    Switch,
    calls_of,
    join,
    stage_of,
    switch,
)

__all__ = [
    "NAME",
    "NESTING_MAX",
    "RECONFIGURE",
    "Bound",
    "ByName",
    "Callee",
    "Chain",
    "Chainable",
    "Handle",
    "HandleMethod",
    "Health",
    "Join",
    "Later",
    "Options",
    "Rows",
    "Servable",
    "Stage",
    "StageCall",
    "Switch",
    "aio",
    "autoscale",
    "bind",
    "calls_of",
    "check_name",
    "deployment",
    "describe_value",
    "first_paragraph",
    "gather",
    "health_checks",
    "healthy",
    "join",
    "later",
    "left_out",
    "make_options",
    "method",
    "on_stop",
    "replaced",
    "says_itself",
    "side_by_side",
    "single_input",
    "spec_of",
    "stage_of",
    "stop_hooks",
    "switch",
    "takes_config",
    "warmup",
    "warmups",
]
