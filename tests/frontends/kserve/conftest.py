"""Clients as they are on PyPI, of both protocols, for one server of models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import tritonclient.grpc
import tritonclient.http

from flightserve.config import EdgeLimits
from tests.frontends.kserve.models_app import models_served

LIMIT = 8 << 20


class Triton(NamedTuple):
    """A client, and the module that its inputs are of."""

    client: Any
    module: Any
    name: str


@pytest.fixture(scope="session")
def models() -> Iterator[Any]:
    """The server."""
    with models_served(EdgeLimits(body_bytes_max=LIMIT)) as host:
        yield host


@pytest.fixture(params=["grpc", "http"])
def triton(request: pytest.FixtureRequest, models: Any) -> Iterator[Triton]:
    """tritonclient, by gRPC and by HTTP."""
    module = tritonclient.grpc if request.param == "grpc" else tritonclient.http
    address = models.addresses[request.param].removeprefix("http://")
    with module.InferenceServerClient(address) as client:
        yield Triton(client, module, request.param)
