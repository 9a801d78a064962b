"""The queries of deploy/'s dashboards and alerts, and what they ask of an app's metrics."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import promql_parser as promql
import yaml
from prometheus_client.parser import text_string_to_metric_families

from flightserve.wire.status import Code

DEPLOY: Final = Path(__file__).parents[2] / "deploy"
# What Prometheus adds to what it scrapes, and makes of it itself.
ITS_OWN: Final = {"job", "instance"}
ITS_METRICS: Final = {"up": {"job", "instance"}}
VARIABLES: Final = {"$__rate_interval": "1m", "$deployment": ".*", "$job": "flightserve"}


def queries() -> Iterator[tuple[str, str]]:
    """Where each is, and the query."""
    for path in sorted((DEPLOY / "grafana").glob("*.json")):
        dashboard = json.loads(path.read_text())
        for panel in dashboard["panels"]:
            for target in panel["targets"]:
                yield f"{path.name}: {panel['title']}", with_values(target["expr"])
    rules = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yaml").read_text())
    for group in rules["groups"]:
        for rule in group["rules"]:
            yield f"alerts.yaml: {rule['alert']}", rule["expr"]


def with_values(query: str) -> str:
    """The query as Grafana sends it."""
    for name, value in VARIABLES.items():
        query = query.replace(name, value)
    return query


def shown(text: str) -> Mapping[str, set[str]]:
    """The labels of each metric that `/metrics` shows."""
    found: dict[str, set[str]] = defaultdict(set)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name] |= sample.labels.keys() | ITS_OWN
    return found | ITS_METRICS


def problems(query: str, metrics: Mapping[str, set[str]]) -> list[str]:
    """What of the query is in no metric."""
    found: list[str] = []
    _labels(promql.parse(query), metrics, found)
    return found


def _labels(expr: Any, metrics: Mapping[str, set[str]], found: list[str]) -> set[str]:
    """The labels of what the expression gives."""
    if isinstance(expr, promql.VectorSelector | promql.MatrixSelector):
        selector = expr.vector_selector if isinstance(expr, promql.MatrixSelector) else expr
        return _selected(selector, metrics, found)
    if isinstance(expr, promql.AggregateExpr):
        inside = _labels(expr.expr, metrics, found)
        by = set(expr.modifier.labels) if expr.modifier else set()
        found += [f"by ({label}) of {sorted(inside)}" for label in by - inside]
        return by
    if isinstance(expr, promql.BinaryExpr):
        left, right = (_labels(side, metrics, found) for side in (expr.lhs, expr.rhs))
        on = set(expr.modifier.matching.labels) if expr.modifier and expr.modifier.matching else set()
        found += [f"on ({label})" for label in on - (left & right)]
        if not on and left and right and left != right:
            found.append(f"nothing matches of {sorted(left)} and {sorted(right)}")
        return left or right
    if isinstance(expr, promql.Call):
        inside = set().union(*(_labels(each, metrics, found) for each in expr.args))
        if expr.func.name == "histogram_quantile":
            found += [] if "le" in inside else ["histogram_quantile without le"]
            inside -= {"le"}
        return inside
    if isinstance(expr, promql.ParenExpr):
        return _labels(expr.expr, metrics, found)
    assert isinstance(expr, promql.NumberLiteral), type(expr)
    return set()


def _selected(selector: Any, metrics: Mapping[str, set[str]], found: list[str]) -> set[str]:
    labels = metrics.get(selector.name, set())
    if not labels:
        found.append(f"no metric {selector.name}")
    for matcher in selector.matchers.matchers:
        if matcher.name not in labels:
            found.append(f"{selector.name} has no label {matcher.name}")
        if matcher.name == "code":
            found += [f"no code {code}" for code in matcher.value.split("|") if code not in Code.__members__]
    return set(labels)
