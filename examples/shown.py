"""What `python -m examples.NAME` does: serve the app on free ports, call it, print, stop."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import flightserve as fs


def show(app: fs.App, call: Callable[[Mapping[str, str]], object]) -> None:
    """Serve the app, print what `call` makes of its addresses (by protocol), and stop it."""
    with fs.serve(app, http_port=0, grpc_port=0, flight_port=0, zmq_port=0) as running:
        print(call(running.addresses))
