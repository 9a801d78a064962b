"""What nodes are called."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flightserve.control.messages import View


def node_names(view: View) -> dict[str, str]:
    """By Ray's id of each: their host, as their carriers say it. None where all is on one."""
    carriers = [child for child in view.children if "carrier" in child.addresses]
    return {child.node: child.addresses["carrier"].rpartition(":")[0] for child in carriers}
