"""What there is for a principal, of what is deployed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest

import flightserve as fs
from flightserve.contracts.warehouse import QUERY
from flightserve.core.access.rights import ANYBODY, Principal, Rights, Role
from flightserve.errors import NotFound, PermissionDenied
from flightserve.frontends.seen import check_queries, check_right, deployments_for, method_for
from flightserve.testing import LocalService


@fs.deployment
class Prices:
    def charge(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch

    def audit(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch


@fs.deployment
class Hidden:
    def deed(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch


def somebody(**role: Any) -> Principal:
    return Principal("ann", ("some",), Rights([Role(**role)]))


@pytest.fixture(scope="module")
def service() -> Iterator[LocalService]:
    with LocalService(fs.App(Prices.bind(), Hidden.bind())) as running:
        yield running


CLERK = somebody(call=("Prices.charge", "Ghost"))


def test_listed_is_what_may_be_used(service: LocalService) -> None:
    [prices] = deployments_for(CLERK, service)
    assert (prices.name, [method.name for method in prices.methods]) == ("Prices", ["charge"])
    assert deployments_for(ANYBODY, service) == list(service.deployments())
    assert deployments_for(somebody(), service) == []


@pytest.mark.parametrize("method", ["audit", "nothing"])
@pytest.mark.parametrize("deployment", ["Hidden", "Nowhere", "Prices"])
def test_what_one_may_not_call_is_refused_alike_whether_it_is_there_or_not(
    service: LocalService, deployment: str, method: str
) -> None:
    with pytest.raises(PermissionDenied) as refused:
        method_for(CLERK, service, deployment, method)
    assert refused.value.message == f"ann may not call {deployment}.{method}; it takes a role that grants it"


def test_what_is_not_there_is_said_with_the_names_that_one_may_call(service: LocalService) -> None:
    with pytest.raises(NotFound) as missing:
        method_for(CLERK, service, "Ghost", "x")
    assert missing.value.message == "no deployment 'Ghost'; deployed: Prices"
    with pytest.raises(NotFound) as missing:
        method_for(somebody(call=("Prices.c*",)), service, "Prices", "cxxxxxxx")
    assert missing.value.message == "Prices has no method 'cxxxxxxx'; it has: charge"


def test_what_frontends_ask_a_warehouse_is_there_for_whoever_queries() -> None:
    app = fs.App(fs.sql.Warehouse({"orders": pa.table({"a": [1]})}, name="sales"))
    with LocalService(app) as service:
        [sales] = deployments_for(somebody(query=("orders",)), service)
        assert QUERY in [method.name for method in sales.methods]
        assert deployments_for(somebody(), service) == []
        with pytest.raises(PermissionDenied):
            method_for(somebody(query=("orders",)), service, "sales", QUERY)


def test_rights_that_are_one_word_are_asked_for_by_it() -> None:
    check_queries(somebody(query=("a",)))
    check_right(somebody(metrics=True), "metrics")
    with pytest.raises(PermissionDenied, match="ann may query nothing"):
        check_queries(somebody(call=("*",)))
    with pytest.raises(PermissionDenied, match="lacks the right `operate`"):
        check_right(somebody(metrics=True), "operate")
