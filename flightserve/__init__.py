"""Serve Python methods on Arrow record batches over Arrow Flight, gRPC, HTTP and ZeroMQ.

    import flightserve as fs

    @fs.deployment(replicas=2)
    class Pricing:
        def charge(self, batch: pa.RecordBatch) -> pa.RecordBatch: ...

    app = fs.App(Pricing.bind())

Serve it with `flightserve run module:app`, or `with fs.serve(app) as running`. The names are imported on first
use, so that `import flightserve` costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flightserve import metrics as metrics
    from flightserve import models as models
    from flightserve import sql as sql
    from flightserve.app import App as App
    from flightserve.client.connecting import connect as connect
    from flightserve.client.connecting import connect_async as connect_async
    from flightserve.config import EdgeLimits as EdgeLimits
    from flightserve.config import FabricLimits as FabricLimits
    from flightserve.config import ServingOptions as ServingOptions
    from flightserve.contracts.context import Context as Context
    from flightserve.contracts.context import context as context
    from flightserve.declare import Bound as Bound
    from flightserve.declare import Handle as Handle
    from flightserve.declare import HandleMethod as HandleMethod
    from flightserve.declare import Later as Later
    from flightserve.declare import Options as Options
    from flightserve.declare import Rows as Rows
    from flightserve.declare import Stage as Stage
    from flightserve.declare import aio as aio
    from flightserve.declare import autoscale as autoscale
    from flightserve.declare import bind as bind
    from flightserve.declare import deployment as deployment
    from flightserve.declare import gather as gather
    from flightserve.declare import healthy as healthy
    from flightserve.declare import join as join
    from flightserve.declare import later as later
    from flightserve.declare import method as method
    from flightserve.declare import on_stop as on_stop
    from flightserve.declare import single_input as single_input
    from flightserve.declare import switch as switch
    from flightserve.declare import warmup as warmup
    from flightserve.errors import Cancelled as Cancelled
    from flightserve.errors import ConfigError as ConfigError
    from flightserve.errors import DeadlineExceeded as DeadlineExceeded
    from flightserve.errors import FlightserveError as FlightserveError
    from flightserve.errors import InvalidArgument as InvalidArgument
    from flightserve.errors import MethodFailed as MethodFailed
    from flightserve.errors import NotFound as NotFound
    from flightserve.errors import PermissionDenied as PermissionDenied
    from flightserve.errors import ResourceExhausted as ResourceExhausted
    from flightserve.errors import Unauthenticated as Unauthenticated
    from flightserve.errors import Unavailable as Unavailable
    from flightserve.pipelines.declaring import pipeline as pipeline
    from flightserve.pipelines.spreading import shadow as shadow
    from flightserve.pipelines.spreading import split as split
    from flightserve.running import Running as Running
    from flightserve.running import serve as serve
    from flightserve.types import DeploymentOptions as DeploymentOptions

__version__ = "0.1.0"

_NAMES = {
    "flightserve.app": ["App"],
    "flightserve.client.connecting": ["connect", "connect_async"],
    "flightserve.config": ["EdgeLimits", "FabricLimits", "ServingOptions"],
    "flightserve.contracts.context": ["Context", "context"],
    "flightserve.declare": [
        "Bound",
        "Handle",
        "HandleMethod",
        "Later",
        "Options",
        "Rows",
        "Stage",
        "aio",
        "autoscale",
        "bind",
        "deployment",
        "gather",
        "healthy",
        "join",
        "later",
        "method",
        "on_stop",
        "single_input",
        "switch",
        "warmup",
    ],
    "flightserve.errors": [
        "Cancelled",
        "ConfigError",
        "DeadlineExceeded",
        "FlightserveError",
        "InvalidArgument",
        "MethodFailed",
        "NotFound",
        "PermissionDenied",
        "ResourceExhausted",
        "Unauthenticated",
        "Unavailable",
    ],
    "flightserve.pipelines.declaring": ["pipeline"],
    "flightserve.pipelines.spreading": ["shadow", "split"],
    "flightserve.running": ["Running", "serve"],
    "flightserve.types": ["DeploymentOptions"],
}
# Rooms that are names themselves.
_ROOMS = ("metrics", "models", "sql")
_HOMES = {name: home for home, names in _NAMES.items() for name in names}

__all__ = [
    "App",
    "Bound",
    "Cancelled",
    "ConfigError",
    "Context",
    "DeadlineExceeded",
    "DeploymentOptions",
    "EdgeLimits",
    "FabricLimits",
    "FlightserveError",
    "Handle",
    "HandleMethod",
    "InvalidArgument",
    "Later",
    "MethodFailed",
    "NotFound",
    "Options",
    "PermissionDenied",
    "ResourceExhausted",
    "Rows",
    "Running",
    "ServingOptions",
    "Stage",
    "Unauthenticated",
    "Unavailable",
    "aio",
    "autoscale",
    "bind",
    "connect",
    "connect_async",
    "context",
    "deployment",
    "gather",
    "healthy",
    "join",
    "later",
    "method",
    "metrics",
    "models",
    "on_stop",
    "pipeline",
    "serve",
    "shadow",
    "single_input",
    "split",
    "sql",
    "switch",
    "warmup",
]


def _load(name: str) -> Any:
    if name in _ROOMS:
        # Importing it makes it an attribute of this package.
        return import_module(f"flightserve.{name}")
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'flightserve' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


if not TYPE_CHECKING:
    # A type checker that saw it would take every name, a misspelt one as well.
    __getattr__ = _load


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
