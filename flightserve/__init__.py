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
    from flightserve import sql as sql
    from flightserve.app import App as App
    from flightserve.contracts.context import context as context
    from flightserve.declare import bind as bind
    from flightserve.declare import deployment as deployment
    from flightserve.declare import healthy as healthy
    from flightserve.declare import method as method
    from flightserve.declare import on_stop as on_stop
    from flightserve.declare import single_input as single_input
    from flightserve.errors import FlightserveError as FlightserveError
    from flightserve.errors import InvalidArgument as InvalidArgument
    from flightserve.errors import NotFound as NotFound
    from flightserve.running import Running as Running
    from flightserve.running import serve as serve

__version__ = "0.1.0"

_HOMES = {
    "App": "flightserve.app",
    "bind": "flightserve.declare",
    "deployment": "flightserve.declare",
    "healthy": "flightserve.declare",
    "method": "flightserve.declare",
    "on_stop": "flightserve.declare",
    "single_input": "flightserve.declare",
    "context": "flightserve.contracts.context",
    "serve": "flightserve.running",
    "Running": "flightserve.running",
    "FlightserveError": "flightserve.errors",
    "InvalidArgument": "flightserve.errors",
    "NotFound": "flightserve.errors",
}

__all__ = [
    "App",
    "FlightserveError",
    "InvalidArgument",
    "NotFound",
    "Running",
    "bind",
    "context",
    "deployment",
    "healthy",
    "method",
    "on_stop",
    "serve",
    "single_input",
    "sql",
]


def __getattr__(name: str) -> Any:
    if name == "sql":
        # The room itself; importing it makes it an attribute of this package.
        return import_module("flightserve.sql")
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'flightserve' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
