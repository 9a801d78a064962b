"""What the models' clients asked of this process, counted for `ModelStatistics`.

The names are the protocol's. What happened behind the frontend (queue, micro-batches) is in the metrics: a micro-batch
is many clients', and has no place here.
"""

from __future__ import annotations

import time
from typing import Any, Final

from flightserve.clock import NS_PER_MS
from flightserve.contracts.service import Service
from flightserve.core.access.rights import ANYBODY, Principal
from flightserve.frontends.kserve.models import Model, all_models, find_model

Json = dict[str, Any]
_NOTHING: Final = {"count": 0, "ns": 0}


class _Counts:
    __slots__ = ("failed", "failed_ns", "last_ms", "rows", "succeeded", "succeeded_ns")

    def __init__(self) -> None:
        self.succeeded = self.succeeded_ns = self.failed = self.failed_ns = self.rows = self.last_ms = 0


class ModelStatistics:
    """Of the models that exist; those that are gone are forgotten when they are many."""

    def __init__(self) -> None:
        # By deployment, version and method.
        self._counts: dict[tuple[str, str, str], _Counts] = {}

    def count(self, model: Model, rows: int, code: int, ns: int) -> None:
        """One request of that many rows has ended."""
        counts = self._of(model)
        if code:
            counts.failed += 1
            counts.failed_ns += ns
            return
        counts.succeeded += 1
        counts.succeeded_ns += ns
        counts.rows += rows
        counts.last_ms = time.time_ns() // NS_PER_MS

    def describe(
        self, service: Service, name: str = "", version: str = "", principal: Principal = ANYBODY
    ) -> list[Json]:
        """`ModelStatisticsResponse.model_stats`: of one model, or of all that he may call. Raises NotFound,
        PermissionDenied."""
        models = [find_model(service, name, version, principal)] if name else list(all_models(service, principal))
        self._forget({_key(model) for model in all_models(service)})
        return [self._describe(model) for model in models]

    def _describe(self, model: Model) -> Json:
        counts = self._counts.get(_key(model)) or _Counts()
        return {
            "name": model.name,
            "version": model.version,
            "last_inference": counts.last_ms,
            "inference_count": counts.rows,
            "execution_count": counts.succeeded,
            "inference_stats": {
                "success": {"count": counts.succeeded, "ns": counts.succeeded_ns},
                "fail": {"count": counts.failed, "ns": counts.failed_ns},
                "queue": _NOTHING,
                "compute_input": _NOTHING,
                "compute_infer": _NOTHING,
                "compute_output": _NOTHING,
            },
        }

    def _of(self, model: Model) -> _Counts:
        return self._counts.setdefault(_key(model), _Counts())

    def _forget(self, known: set[tuple[str, str, str]]) -> None:
        for key in self._counts.keys() - known:
            del self._counts[key]


def _key(model: Model) -> tuple[str, str, str]:
    return model.deployment.name, model.version, model.method.name
