"""What a method may call onwards: what those may call whom it runs for.

Every deployment can be called from outside, stages of pipelines too. So one rule holds for all: whatever a method
calls, or plans to follow what it calls, takes the right that its caller would need to call it himself. Of several
callers, each has to have it; but those of different roles do not share a call of the method (`replica.binding`). A
warehouse judges statements by itself. What runs for nobody's request, as in `__init__`, may call everything.
"""

from __future__ import annotations

from collections.abc import Iterable

from flightserve.contracts.access import Access
from flightserve.contracts.chains import Find, refused_stage
from flightserve.contracts.context import Context
from flightserve.errors import PermissionDenied
from flightserve.types import DeploymentSpec, MethodSpec


def check_onward(
    access: Access, current: Context, calls: Iterable[tuple[DeploymentSpec, MethodSpec]], find: Find
) -> None:
    """Raises PermissionDenied, which names what may not be called. `find` looks methods up."""
    rights = access.rights(current.caller)
    for deployment, method in calls:
        if rights.may_call(deployment.name, method.name):
            refused = refused_stage(rights, method, find)
        else:
            # Making arrays as it does when imported loads pandas: not in what all children are forked from.
            from flightserve.contracts.warehouse import is_internal

            refused = "" if is_internal(deployment, method) else f"{deployment.name}.{method.name}"
        if not refused:
            continue
        names = list(dict.fromkeys(name for name in current.callers if name))
        who = names[0] if len(names) == 1 else f"one of {len(names)} callers"
        raise PermissionDenied(
            f"{who} may not call {refused}, which {current.deployment}.{current.method} calls; "
            "it takes a role that grants it"
        )
