"""Methods as Flight describes them: `FlightInfo` and schemas, for ListFlights, GetFlightInfo and GetSchema.

The schema of a method is its output's where that is declared, else its input's, else the empty schema;
`app_metadata` of the `FlightInfo` is a JSON object that says which (`schema_of`), and the method's options. A
method has no endpoints: it is called by DoExchange on the same descriptor.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pyarrow as pa
from pyarrow import flight

from flightserve.frontends.sql.gateway import KnowsDeployments
from flightserve.types import DeploymentSpec, MethodSpec


def method_schema(method: MethodSpec) -> tuple[pa.Schema, str]:
    """The schema shown for a method, and what it is the schema of: `output`, `input` or `nothing`."""
    if method.output_schema is not None:
        return pa.ipc.read_schema(pa.py_buffer(method.output_schema)), "output"
    if method.input_schema is not None:
        return pa.ipc.read_schema(pa.py_buffer(method.input_schema)), "input"
    return pa.schema([]), "nothing"


def method_info(deployment: DeploymentSpec, method: MethodSpec) -> Any:
    """The `FlightInfo` of a method."""
    schema, schema_of = method_schema(method)
    about = {
        "deployment": deployment.name,
        "version": deployment.version,
        "method": method.name,
        "schema_of": schema_of,
        "form": method.form,
        "row_aligned": method.row_aligned,
        "idempotent": method.idempotent,
        "streaming": method.streaming,
        "strict": method.strict,
        "doc": method.doc,
    }
    descriptor = flight.FlightDescriptor.for_path(deployment.name, method.name)
    return flight.FlightInfo(schema, descriptor, [], -1, -1, app_metadata=msgspec.json.encode(about))


def all_methods(known: KnowsDeployments, wanted: str | None = None) -> Iterator[Any]:
    """The `FlightInfo` of every method that is deployed, or of one deployment's."""
    for deployment in known.deployments():
        if wanted in (None, deployment.name):
            for method in deployment.methods:
                yield method_info(deployment, method)
