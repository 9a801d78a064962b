"""What a terminal shows when an app is ready: where it listens, a line to paste for each protocol, tables, pages.

Pure: addresses, specs and numbers of rows, in; lines, out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from flightserve.config import UNIX
from flightserve.types import DeploymentSpec
from flightserve.wire.log_lines import neutral
from flightserve.wire.log_text import DIM, painted

TABLES_MAX: Final = 12
_HEAD: Final = "1"
_ADDRESS: Final = "1;32"
_FLIGHT: Final = (
    """python -c 'import pyarrow.flight as f; print(*f.connect("{}").list_flights(), sep="\\n")'"""  # all that there is
)
_GRPC: Final = (
    "python -c 'import grpc; from flightserve.proto import flightserve_pb2 as pb, flightserve_pb2_grpc as g; "
    """print(g.FlightServeStub(grpc.insecure_channel("{}")).ListDeployments(pb.ListDeploymentsRequest()))'"""
)
# What a client trusts, in the folder where a line is pasted.
CA: Final = "ca.pem"
_FLIGHT_TLS: Final = _FLIGHT.replace('"{}"', f'"{{}}", tls_root_certs=open("{CA}", "rb").read()')
_GRPC_TLS: Final = _GRPC.replace(
    'insecure_channel("{}")', f'secure_channel("{{}}", grpc.ssl_channel_credentials(open("{CA}", "rb").read()))'
)
_ZMQ: Final = (
    "python -c 'import json, zmq, pyarrow as pa; b = {rows}; s = pa.BufferOutputStream(); "
    "w = pa.ipc.new_stream(s, b.schema); w.write(b); w.close(); z = zmq.Context().socket(zmq.REQ); "
    """z.connect("{address}"); z.send_multipart([b"{{\\"deployment\\": \\"{deployment}\\", \\"method\\": """
    """\\"{method}\\"}}", s.getvalue()]); print(z.recv_multipart()[0])'"""
)


@dataclass(frozen=True, slots=True)
class ShownCall:
    """One call that an app answers. `body` is what HTTP takes, None where nothing is known of what the method takes."""

    deployment: str
    method: str
    body: Mapping[str, Any] | None


@dataclass(slots=True)
class Ready:
    """What there is to show. `rows` is by table, None where nobody counted; `call` is of a
    class, and there is none where all is SQL. `tls` and `curve` say what is encrypted: lines then need the file `CA`,
    and of ZeroMQ there is none so short."""

    version: str
    took_s: float
    addresses: Mapping[str, str]
    deployments: Sequence[DeploymentSpec]
    call: ShownCall | None = None
    rows: Mapping[str, int | None] = field(default_factory=dict)
    tls: bool = False
    curve: bool = False


def lines(ready: Ready, colour: bool) -> list[str]:
    """The banner."""
    head = f"flightserve {ready.version} is ready after {ready.took_s:.1f} s"
    served = ", ".join(f"{each.name} ({_count(each)})" for each in ready.deployments)
    out = ["", painted(head, _HEAD, colour), f"  serves  {neutral(served)}"]
    if ready.rows:
        out += ["", "  tables", *_tables(ready.rows)]
    for protocol, address in ready.addresses.items():
        out += ["", f"  {protocol:6}  {painted(address, _ADDRESS, colour)}"]
        if paste := line_to_paste(protocol, address, ready):
            out.append(f"    {painted(paste, DIM, colour)}")
    http = ready.addresses.get("http", "").rstrip("/")
    if http and not http.startswith(UNIX):
        out += ["", f"  docs    {http}/docs", f"  console {http}/console"]
    if ready.tls:
        out += ["", f"  The lines trust the CA in {CA}, which is to be your CA's certificate."]
    return [*out, "", "Ctrl-C stops it.", ""]


def _count(spec: DeploymentSpec) -> str:
    count = spec.options.replicas
    return f"{count} replica" if count == 1 else f"{count} replicas"


def _tables(rows: Mapping[str, int | None]) -> Iterator[str]:
    shown = [(neutral(name), "" if count is None else f"{count:,}") for name, count in list(rows.items())[:TABLES_MAX]]
    width, digits = max(len(name) for name, _ in shown), max(len(count) for _, count in shown)
    for name, count in shown:
        yield f"    {name:{width}}  {count:>{digits}}{' rows' if count else ''}".rstrip()
    if len(rows) > TABLES_MAX:
        yield f"    and {len(rows) - TABLES_MAX} more"


def line_to_paste(protocol: str, address: str, ready: Ready) -> str:
    """A shell command that asks the app something over that protocol; "" where there is none so short."""
    if protocol == "http":
        return _curl(_for_curl(address), ready)
    if protocol == "flight":
        return (_FLIGHT_TLS if ready.tls else _FLIGHT).replace("{}", address)
    if protocol == "grpc":
        return (_GRPC_TLS if ready.tls else _GRPC).replace("{}", address)
    if protocol == "zmq" and not ready.curve and (call := ready.call) is not None:
        rows = _python(call.body or {"columns": {"x": [1]}})
        return _ZMQ.format(rows=rows, address=address, deployment=call.deployment, method=call.method)
    return ""


def _for_curl(address: str) -> str:
    """The beginning of a URL; at a unix socket any host will do that HTTP answers to."""
    if address.startswith(UNIX):
        return f"--unix-socket {_quoted(address.removeprefix(UNIX))} http://localhost"
    trust = f"--cacert {CA} " if address.startswith("https:") else ""
    return trust + address.rstrip("/")


def _curl(address: str, ready: Ready) -> str:
    call = ready.call
    if call is not None:
        url = f"{address}/v1/{call.deployment}/{call.method}"
        if call.body is None:
            # What it takes is not declared; the page says what is known.
            return f"curl -s {url}"
        return f"curl -s {url} -H 'content-type: application/json' -d {_quoted(json.dumps(call.body))}"
    if any(each.kind == "sql" for each in ready.deployments):
        table = next(iter(ready.rows), "")
        query = f'FROM "{table}" LIMIT 5' if table else "SELECT 42 AS answer"
        body = _quoted(json.dumps({"query": query}))
        return f"curl -s {address}/v1/sql -H 'content-type: application/json' -d {body}"
    return f"curl -s {address}/v1/deployments"


def _quoted(text: str) -> str:
    """For the shell, in single quotes."""
    return "'" + text.replace("'", "'\\''") + "'"


def _python(body: Mapping[str, Any]) -> str:
    """The record batch of a JSON body, as Python that stands in single quotes of the shell."""
    if "rows" in body:
        return f"pa.RecordBatch.from_pylist({_literal(body['rows'])})"
    return f"pa.RecordBatch.from_pydict({_literal(body['columns'])})"


def _literal(value: Any) -> str:
    # JSON's quotes are double ones; of its three words Python has others.
    return f'json.loads(r"""{json.dumps(value)}""")'.replace("'", "'\\''")
