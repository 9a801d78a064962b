"""`make run`: the sample data, then `flightserve run examples.flights.app:app`, then a line to paste for each protocol.

Options are handed on to `flightserve run`. The command runs in this process, so that signals reach it as they
would without this wrapper. On a terminal it shows lines to paste itself. Elsewhere its standard output passes through a
pipe, so that ours can follow the `ready` line, which stays the first.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import TextIO

from examples.flights import data

READY = "ready "
ROW = '{"carrier": "UA", "flight": 1545, "origin": "EWR", "dest": "IAH", "dep_delay": 2, "arr_delay": 11}'

_BATCH = f"b = pa.RecordBatch.from_pylist([{ROW}])"
_STREAM = (
    f"import pyarrow as pa; {_BATCH}; s = pa.BufferOutputStream(); "
    "w = pa.ipc.new_stream(s, b.schema); w.write(b); w.close()"
)
_PRINT = "print(pa.ipc.open_stream({}).read_all().to_pylist())"

# The arguments of `python -c`, in single quotes; curl for HTTP. {} is the address.
_PYTHON = {
    "flight": (
        f"import pyarrow as pa, pyarrow.flight as f; {_BATCH}; "
        'w, r = f.connect("{}").do_exchange(f.FlightDescriptor.for_path("Flights", "explain")); '
        "w.begin(b.schema); w.write_batch(b); w.done_writing(); print(r.read_all().to_pylist()); w.close()"
    ),
    "grpc": (
        f"import grpc; from flightserve.proto import flightserve_pb2 as pb, flightserve_pb2_grpc as g; {_STREAM}; "
        'stub = g.FlightServeStub(grpc.insecure_channel("{}")); '
        'q = pb.CallRequest(deployment="Flights", method="explain", arrow_stream=bytes(s.getvalue())); '
        "r = stub.Call(q); " + _PRINT.format("r.arrow_stream")
    ),
    "zmq": (
        f'import zmq; {_STREAM}; z = zmq.Context().socket(zmq.REQ); z.connect("{{}}"); '
        'z.send_multipart([b"{\\"deployment\\": \\"Flights\\", \\"method\\": \\"explain\\"}", s.getvalue()]); '
        "h, r = z.recv_multipart(); " + _PRINT.format("r")
    ),
}
# Your CA's certificate, in TLS.
CA = "ca.pem"
_READ_CA = f'open("{CA}", "rb").read()'
_CURL = "curl -s {}/v1/Flights/explain -H 'content-type: application/json' -d '{}'"


def line_to_paste(protocol: str, address: str, python: str = sys.executable, tls: bool = False) -> str:
    """A shell command that asks the example for one flight over one protocol; in TLS it trusts the file `CA`."""
    if protocol == "http":
        trust = f"--cacert {CA} " if address.startswith("https:") else ""
        return _CURL.format(trust + address, '{"rows": [' + ROW + "]}")
    text = _PYTHON[protocol]
    if tls and protocol == "flight":
        text = text.replace('connect("{}")', f'connect("{{}}", tls_root_certs={_READ_CA})')
    if tls and protocol == "grpc":
        text = text.replace(
            'insecure_channel("{}")', f'secure_channel("{{}}", grpc.ssl_channel_credentials({_READ_CA}))'
        )
    return f"{python} -c '{text.replace('{}', address)}'"


def hints(addresses: dict[str, str]) -> str:
    """What is printed after `ready`: for each protocol its address and a line to paste."""
    known = [name for name in ("http", "flight", "grpc", "zmq") if name in addresses]
    tls = any("tls" in address or address.startswith("https:") for address in addresses.values())
    parts = [
        f"{name}  {addresses[name]}\n  {line_to_paste(name, addresses[name], tls=tls)}"
        # Beside TLS ZeroMQ has keys, which are no matter of a line.
        for name in known if not (tls and name == "zmq")
    ]  # fmt: skip
    if "http" in addresses:
        parts.append(f"Documentation: {addresses['http']}/docs   Metrics: {addresses['http']}/metrics")
    return "\n\n".join(["", *parts, "All methods, all protocols, all flights: make demo. Stop with Ctrl-C."])


def copy_with_hints(source: Iterable[str], target: TextIO) -> None:
    """Hand every line on, and write the hints after the one that says `ready`."""
    for line in source:
        target.write(line)
        if line.startswith(READY):
            target.write(hints(json.loads(line.removeprefix(READY))) + "\n")
        target.flush()


@contextlib.contextmanager
def hinting_stdout() -> Iterator[None]:
    """Inside, descriptor 1 is a pipe that a thread copies to the real standard output, hints added."""
    sys.stdout.flush()
    reading, writing = os.pipe()
    with os.fdopen(os.dup(1), "w") as real, os.fdopen(reading) as lines:
        copier = threading.Thread(target=copy_with_hints, args=(lines, real), daemon=True)
        copier.start()
        os.dup2(writing, 1)
        os.close(writing)
        try:
            yield
        finally:
            sys.stdout.flush()
            # The last of the pipe's writing ends: the copier reads to the end and stops.
            os.dup2(real.fileno(), 1)
            copier.join()


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGINT or SIGTERM; the exit status of `flightserve run`."""
    from flightserve.cli.colour import is_terminal
    from flightserve.cli.main import main as flightserve

    data.ensure_all()
    options = list(sys.argv[1:] if argv is None else argv)
    with contextlib.nullcontext() if is_terminal(sys.stderr) else hinting_stdout():
        return flightserve(["run", "examples.flights.app:app", *options])


if __name__ == "__main__":
    sys.exit(main())
