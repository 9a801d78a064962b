"""ZeroMQ load: one DEALER that keeps requests of 16 rows in flight, each place with its own rows and id.

The first answer of each place is decoded and compared; a later one that is not the same bytes is compared too.
"""

from __future__ import annotations

import time
from typing import Any, Final

import orjson
import zmq

from benchmarks import payloads
from benchmarks.load.orders import WrongAnswer, latencies, obey

TIMEOUT_MS: Final = 30_000


class Place:
    """One of those in flight."""

    def __init__(self, number: int) -> None:
        self._batch = payloads.small(number)
        fields = {"deployment": "Identity", "method": "identity", "x-request-id": str(number)}
        self.parts = (orjson.dumps(fields), payloads.encode(self._batch))
        self.sent_ns = 0
        self._known = b""

    def check(self, body: bytes) -> None:
        """Raise WrongAnswer unless these are the rows that were sent."""
        if body != self._known:
            rows = payloads.decode(body).to_pydict()
            if rows != self._batch.to_pydict():
                raise WrongAnswer(f"got {rows}")
            self._known = body


def number_of(header: bytes) -> int:
    """The place that a reply is of: an app names the request, an echo answers its header. Raises WrongAnswer where the
    reply tells of an error."""
    fields = orjson.loads(header)
    if fields.get("code", "OK") != "OK":
        raise WrongAnswer(f"{fields}")
    return int(fields.get("request_id") or fields["x-request-id"])


def dealer_load(address: str, in_flight: int, seconds: float) -> dict[str, Any]:
    """Order `dealer`: so many in flight for `seconds`: `calls_per_s`, p50, p99. What is on its way then is awaited, and
    does not count."""
    places = [Place(number) for number in range(in_flight)]
    times_ns: list[int] = []
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.rcvtimeo = socket.sndtimeo = TIMEOUT_MS
        socket.connect(address)

        def send(place: Place) -> None:
            place.sent_ns = time.perf_counter_ns()
            socket.send_multipart(place.parts)

        def receive() -> Place:
            header, body = socket.recv_multipart()
            place = places[number_of(header)]
            place.check(body)
            return place

        for place in places:
            send(place)
        for _ in places:
            receive()
        begun_ns = time.perf_counter_ns()
        until_ns = begun_ns + int(seconds * 1e9)
        for place in places:
            send(place)
        while (now_ns := time.perf_counter_ns()) < until_ns:
            place = receive()
            times_ns.append(time.perf_counter_ns() - place.sent_ns)
            send(place)
        for _ in places:
            receive()
    answered = len(times_ns)
    return {
        "calls_per_s": answered / (now_ns - begun_ns) * 1e9,
        "answered": answered,
        "verified": answered,
        **latencies(times_ns),
    }


if __name__ == "__main__":
    obey({"dealer": dealer_load})
