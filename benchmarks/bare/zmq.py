"""The bare ZeroMQ echo: a ROUTER socket that sends back the parts that came."""

from __future__ import annotations

import json
import signal
import sys

import zmq


def main() -> None:
    """Serve on a free loopback port until SIGTERM."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        router.linger = 0
        port = router.bind_to_random_port("tcp://127.0.0.1")
        print("ready", json.dumps({"zmq": f"tcp://127.0.0.1:{port}"}), flush=True)
        while True:
            router.send_multipart(router.recv_multipart())


if __name__ == "__main__":
    main()
