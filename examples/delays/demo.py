"""`python -m examples.delays.demo`: the models' errors, and the same flights through every client; all answers agree.

Each client sends every request under the same id, so the split sends it to the same model each time. The answers are
compared with each other and with what that model says when the stages are called as plain classes. The exit status is 1
where any differ.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import httpx
import joblib
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tritonclient.grpc
import tritonclient.http

import flightserve as fs
from examples.delays import training
from examples.delays.app import app

REQUESTS, ROWS = 12, 50
TIMEOUT_S = 60.0
OUTPUTS = ("prediction", "why")

# Answers the rows of one request, which goes by that id.
Ask = Callable[[pa.RecordBatch, str], dict[str, list[object]]]


def over_http(address: str, stack: ExitStack) -> Ask:
    """JSON, by httpx."""
    client = stack.enter_context(httpx.Client(base_url=address, timeout=TIMEOUT_S))

    def ask(rows: pa.RecordBatch, request_id: str) -> dict[str, list[object]]:
        reply = client.post("/v1/delays/run", json={"columns": rows.to_pydict()}, headers={"x-request-id": request_id})
        columns: dict[str, list[object]] = reply.raise_for_status().json()["columns"]
        return columns

    return ask


def by_connect(address: str, stack: ExitStack) -> Ask:
    """`fs.connect`, which finds the app's memory on this machine."""
    client = stack.enter_context(fs.connect(address))

    def ask(rows: pa.RecordBatch, request_id: str) -> dict[str, list[object]]:
        columns: dict[str, list[object]] = client.delays.run(rows, request_id=request_id).to_pydict()
        return columns

    return ask


def by_triton(half: Any, address: str, stack: ExitStack) -> Ask:
    """The KServe v2 protocol, by tritonclient's gRPC or HTTP half, which are alike."""
    client = stack.enter_context(half.InferenceServerClient(address))

    def ask(rows: pa.RecordBatch, request_id: str) -> dict[str, list[object]]:
        inputs = []
        for field, column in zip(rows.schema, rows.columns, strict=True):
            text = pa.types.is_string(field.type)
            kind = "BYTES" if text else "INT64" if pa.types.is_integer(field.type) else "FP64"
            values = np.array(column.to_pylist(), dtype=object if text else column.type.to_pandas_dtype())
            inputs.append(half.InferInput(field.name, list(values.shape), kind))
            inputs[-1].set_data_from_numpy(values)
        result = client.infer("delays", inputs, request_id=request_id)
        said = {name: result.as_numpy(name).tolist() for name in OUTPUTS}
        return {"prediction": said["prediction"], "why": [text.decode() for text in said["why"]]}

    return ask


def clients(addresses: Mapping[str, str], stack: ExitStack) -> dict[str, Ask]:
    """All of them, by name; the stack closes them."""
    return {
        "httpx": over_http(addresses["http"], stack),
        "fs.connect": by_connect(addresses["flight"], stack),
        "tritonclient.grpc": by_triton(tritonclient.grpc, addresses["grpc"], stack),
        "tritonclient.http": by_triton(tritonclient.http, addresses["http"].removeprefix("http://"), stack),
    }


def requests() -> list[pa.RecordBatch]:
    """Flights of the months that no model has seen."""
    rows, _ = training.flights(pc.field("month") > training.LAST_MONTH_SEEN)
    return [rows.slice(number * ROWS * 97, ROWS) for number in range(REQUESTS)]


def compare(addresses: Mapping[str, str], asked: Sequence[pa.RecordBatch]) -> Iterator[str]:
    """A line for each disagreement."""
    models = {name: joblib.load(path) for name, path in training.ensure().items()}
    with ExitStack() as stack:
        everyone = clients(addresses, stack)
        said = [{name: ask(rows, f"demo-{n}") for name, ask in everyone.items()} for n, rows in enumerate(asked)]
    for number, (rows, answers) in enumerate(zip(asked, said, strict=True)):
        first = answers["httpx"]
        yield from (f"request {number}: {name} differs" for name, said in answers.items() if said != first)
        if not rows.num_rows:
            continue
        matrix = training.features(rows).to_pandas()
        expected = [model.predict(matrix) for model in models.values()]
        if not any(np.allclose(np.array(first["prediction"], float), each) for each in expected):
            yield f"request {number}: no model says that"


def main() -> int:
    """The exit status."""
    for name, error in training.errors().items():
        print(f"{name:<10} {error:6.2f} minutes off, on average, on months that it has not seen")
    with fs.serve(app, http_port=0, grpc_port=0, flight_port=0, zmq_port=None) as running:
        problems = list(compare(running.addresses, requests()))
    for problem in problems:
        print(problem)
    verdict = "they differ" if problems else "all agree"
    print(f"{REQUESTS} requests of {ROWS} flights by httpx, fs.connect and tritonclient (gRPC and HTTP): {verdict}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
