"""Calls and queries that were let in, and what is told at their ends."""

from __future__ import annotations

import msgspec

from flightserve.contracts.access import Visit
from flightserve.contracts.warehouse import KIND
from flightserve.core.access.rights import Principal
from flightserve.types import DeploymentSpec, RequestMeta


class TalliedVisit:
    """A visit, and the rows that it was answered."""

    __slots__ = ("_visit", "rows")

    def __init__(self, visit: Visit) -> None:
        self._visit = visit
        self.rows = 0

    def end(self, code: int) -> None:
        """It ended with this code. Only the first time."""
        self._visit.end(code, self.rows)

    def __repr__(self) -> str:
        return f"<TalliedVisit {self.rows} rows>"


def as_query(meta: RequestMeta, principal: Principal, deployment: DeploymentSpec, now_ns: int) -> RequestMeta:
    """That of a request of his. What a warehouse does, by whatever way it is asked, is a query: his longest query ends
    it, if nothing does before, and its tables come to stand in `tables`, for the audit log."""
    if deployment.kind != KIND:
        return meta
    deadline_ns = principal.limits.shorten(meta.deadline_ns, now_ns)
    return msgspec.structs.replace(meta, deadline_ns=deadline_ns, tables=[])
