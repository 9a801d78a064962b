"""`fs.pipeline`: a graph of stages as a deployment like any other, with one method, `run`.

The deployments of its stages are arguments of it, so `App` finds and serves them. What `run` takes and answers follows
from what they declare. That is asked of classes at once, and of what says itself what it serves (a warehouse, a model
in a file) when the app is planned.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any, Final, Unpack

from flightserve.declare import (
    Bound,
    Callee,
    Chain,
    Chainable,
    Join,
    Options,
    Stage,
    StageCall,
    calls_of,
    check_name,
    make_options,
    on_stop,
    says_itself,
    spec_of,
    stage_of,
)
from flightserve.declare.sources import source_of
from flightserve.errors import ConfigError, did_you_mean
from flightserve.pipelines.checking import Checked, SpecOf, check_pipeline
from flightserve.pipelines.running import GraphRun
from flightserve.types import DeploymentOptions, DeploymentSpec, MethodSpec

METHOD: Final = "run"
# Small requests travel together. Of large ones each travels by itself: together they would have to be copied.
TOGETHER_BYTES_MAX: Final = 256 << 10
_DOC_CHARACTERS_MAX: Final = 2048
# Options of a queue: who sets one for a pipeline wants all its requests to wait there.
QUEUE_OPTIONS: Final = (
    *("router", "linger_ms", "concurrency", "max_queued_requests", "max_queued_bytes", "max_queue_wait_ms"),
    *("adaptive_limit", "latency_target_ms", "reentrant", "autoscale"),
)


class PipelineReplica:
    """What runs a pipeline: the graph, whose calls name deployments by their places among the `stages`."""

    flightserve_stage = METHOD

    def __init__(self, graph: Stage, stages: Sequence[Any]) -> None:
        self._graph = GraphRun(graph, stages)

    def run(self, batch: Any) -> Any:
        """Send the rows through the stages."""
        return self._graph.run(batch)

    @on_stop
    def close(self) -> None:
        """End its threads."""
        self._graph.close()

    @classmethod
    def flightserve_spec(cls, bound: Bound[Any], version: str) -> DeploymentSpec:
        """The pipeline as the tiers know it. Raises ConfigError for stages that do not fit."""
        settings = bound.settings
        graph, ask = _known(*bound.args)
        method = _method_of(check_pipeline(bound.name, graph, ask), graph, settings.strict)
        version = version or _version(graph, method, settings)
        if queues_like_others(settings):
            method = dataclasses.replace(method, chain=_straight(graph))
        return DeploymentSpec(bound.name, version, settings, (method,), method.doc)


def pipeline(name: str, graph: Chainable, **options: Unpack[Options]) -> Bound[Any]:
    """A deployment that runs a graph of stages: `fs.pipeline("score", clean.clean >> features.build >> model.predict)`.

    It is served as `/v1/score/run`, with the deployments of its stages, and is a stage of another pipeline itself. What
    it takes and answers is what its first and last stages declare. `options` are those of `@fs.deployment`. Raises
    ConfigError for what is no stage, and for two stages of which one declares other columns than the other takes:
    the message names them, as in `Clean.clean >> Features.build: column 'x' is string, and double is taken`."""
    check_name(name)
    written = stage_of(graph)
    bounds: list[Bound[Any]] = []
    places: dict[int, int] = {}
    for call in calls_of(written):
        if id(call.deployment) not in places:
            places[id(call.deployment)] = len(bounds)
            bounds.append(call.deployment)
    rows_max = min(bound.settings.max_batch_rows for bound in bounds)
    base = DeploymentOptions(max_batch_rows=rows_max, max_batch_bytes=TOGETHER_BYTES_MAX)
    check_pipeline(name, written, lambda call: None if _asked_late(call.deployment) else _served(call))
    arguments = (_placed(written, places), tuple(bounds))
    return Bound(PipelineReplica, arguments, {}, make_options(options, base), name)


def queues_like_others(settings: DeploymentOptions) -> bool:
    """Whether its own queue does nothing that those of its stages do not: then it need not be asked."""
    usual = DeploymentOptions()
    return all(getattr(settings, name) == getattr(usual, name) for name in QUEUE_OPTIONS)


def _straight(graph: Stage) -> tuple[tuple[str, str], ...]:
    """The calls of a graph that is one chain, by the names that the stages are served by; none of another."""
    calls = graph.stages if isinstance(graph, Chain) else (graph,)
    straight = [(call.deployment.name, call.method) for call in calls if isinstance(call, StageCall)]
    return tuple(straight) if len(straight) == len(calls) else ()


def _asked_late(bound: Bound[Any]) -> bool:
    if bound.cls is PipelineReplica:
        return any(map(_asked_late, bound.args[1]))
    return says_itself(bound.cls)


def _served(call: StageCall) -> MethodSpec:
    """The method of a stage. Raises ConfigError where the deployment has none of that name."""
    spec = spec_of(call.deployment)
    method = spec.method(call.method)
    if method is None:
        names = [each.name for each in spec.methods]
        hint = did_you_mean(call.method, names) or f"; it has: {', '.join(names)}"
        raise ConfigError(f"{spec.name} serves no method {call.method!r}{hint}")
    return method


def _placed(stage: Stage, places: dict[int, int]) -> Stage:
    """The graph with places instead of deployments: it travels to the replicas without them."""
    if isinstance(stage, StageCall):
        return StageCall(places[id(stage.deployment)], stage.method)
    return stage.changed(lambda inner: _placed(inner, places))


def _known(graph: Stage, stages: Sequence[Any]) -> tuple[Stage, SpecOf]:
    """The graph with its deployments again, by the names that they are served by, and how their methods are asked
    for. Where they are out of reach (another process's), nothing is known of them."""
    found: list[Bound[Any] | None] = []
    for stage in stages:
        bound: Bound[Any] | None = stage.bound if isinstance(stage, Callee) else stage
        found.append(None if bound is None else dataclasses.replace(bound, name=stage.name))

    def put_back(stage: Stage) -> Stage:
        if isinstance(stage, StageCall):
            return StageCall(found[stage.deployment] or stages[stage.deployment], stage.method)
        return stage.changed(put_back)

    return put_back(graph), lambda call: None if isinstance(call.deployment, Callee) else _served(call)


def _method_of(checked: Checked, graph: Stage, strict: bool) -> MethodSpec:
    taken, output, stages = checked.input, checked.output, checked.stages
    idempotent = all(stage.idempotent for stage in stages)
    # Requests that travel together are tried again one by one when one of them fails.
    together = output.aligned is True and idempotent and not output.streaming
    return MethodSpec(
        name=METHOD,
        row_aligned=together and not checked.tells_rows,
        idempotent=idempotent,
        streaming=output.streaming,
        is_async=True,
        input_schema=None if taken is None else taken.input_schema,
        output_schema=None if output.schema is None else output.schema.serialize().to_pybytes(),
        doc=graph.text[:_DOC_CHARACTERS_MAX],
        strict=strict or any(stage.strict for stage in checked.heads),
        sums=output.sums,
        rounds=taken is not None and taken.rounds,
        example=next((stage.example for stage in checked.heads if stage.example), None),
    )


def _version(graph: Stage, method: MethodSpec, settings: DeploymentOptions) -> str:
    functions = [source_of(function) for function in _combines(graph)]
    text = repr((graph.text, method, settings, functions)).encode()
    return hashlib.blake2b(text, digest_size=8).hexdigest()


def _combines(stage: Stage) -> list[Any]:
    own = [stage.combine] if isinstance(stage, Join) and stage.combine is not None else []
    return own + [function for inner in stage.within() for function in _combines(inner)]
