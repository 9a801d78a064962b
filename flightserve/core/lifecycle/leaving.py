"""A node that Ray drains: nothing new is started there, others take the places of what is there, and then it goes.

What is there goes on until its successor on another node can do its part; then it drains, as on any change. Where the
node ends at some time it drains before that, whether or not there is a successor: what it runs can end then, and what
waits at a router waits for the successor.
"""

from __future__ import annotations

from flightserve.clock import NEVER_NS
from flightserve.core.lifecycle.reconciling import REPLICA, ROUTER

# What others can take the place of, anywhere. Frontends and carriers are of their node.
MOVES = frozenset({REPLICA, ROUTER})


def drain_at_ns(left_ns: int | None, now_ns: int, drain_ns: int) -> int:
    """When what is on a node drains at the latest, of which it is known since now that it ends in `left_ns` (None:
    nobody says when): as long before as a drain may take, but successors get half of the time to start."""
    if left_ns is None:
        return NEVER_NS
    return now_ns + max(left_ns - drain_ns, max(0, left_ns) // 2)
