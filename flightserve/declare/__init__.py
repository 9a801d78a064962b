"""What users write: classes become deployments, their public methods are served.

`@deployment(...)` leaves the class what it was, a plain class that is instantiated and tested without
flightserve, and adds `bind`, which notes the arguments its replicas are made with (`bound`). `@single_input` and
`@method(...)` leave notes on functions (`decorators`). `App` (`composition`) collects what is bound; `spec_of` turns
one of them into the `DeploymentSpec` that the tiers share (`specs`).
"""

from flightserve.declare.bound import NESTING_MAX, Bound, Callee, replaced
from flightserve.declare.decorators import bind, deployment, method, single_input
from flightserve.declare.options import NAME, check_name, described, make_options
from flightserve.declare.specs import first_paragraph, left_out, spec_of

__all__ = [
    "NAME",
    "NESTING_MAX",
    "Bound",
    "Callee",
    "bind",
    "check_name",
    "deployment",
    "described",
    "first_paragraph",
    "left_out",
    "make_options",
    "method",
    "replaced",
    "single_input",
    "spec_of",
]
