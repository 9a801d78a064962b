"""The kinds of hostile bytes: each gives what makes one case, for one thread."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Final

from tests.fuzz import curve, envelopes, handshakes, http, plane, rpc, who
from tests.fuzz.hostile import endpoint_of, versioned
from tests.fuzz.http_requests import shapes
from tests.fuzz.targets import Target
from tests.served.entrance import Entrance

Case = Callable[[random.Random], Counter[str]]
Kind = Callable[[Target], AbstractContextManager[Case]]


@contextmanager
def _http(target: Target) -> Iterator[Case]:
    yield lambda dice: http.any_case(target.addresses["http"], dice)


@contextmanager
def _shapes(target: Target) -> Iterator[Case]:
    every = list(shapes())
    yield lambda dice: http.shape_case(target.addresses["http"], dice.choice(every))


@contextmanager
def _h2(target: Target) -> Iterator[Case]:
    yield lambda dice: http.any_h2(target.addresses[dice.choice(("http", "grpc", "flight"))], dice)


def _rpc(protocol: str, make: Callable[[rpc.Rpc, random.Random], Counter[str]], is_known: bool = True) -> Kind:
    """Calls of gRPC or Flight, where the app asks by somebody who `is_known`, or shows what each call says."""

    @contextmanager
    def kind(target: Target) -> Iterator[Case]:
        entrance = target.entrance
        shown = (entrance.ca, entrance.authorization if is_known else "") if entrance else ()
        with rpc.Rpc(target.addresses[protocol], *shown) as calls:
            yield lambda dice: make(calls, dice)

    return kind


def _dealer(make: Callable[[envelopes.Dealer, random.Random], Counter[str]], is_known: bool = True) -> Kind:
    """Messages of ZeroMQ, by the same."""

    @contextmanager
    def kind(target: Target) -> Iterator[Case]:
        entrance = target.entrance
        shown = (entrance.keys, entrance.authorization if is_known else "") if entrance else ()
        with envelopes.Dealer(target.addresses["zmq"], *shown) as dealer:
            yield lambda dice: make(dealer, dice)

    return kind


@contextmanager
def _zmtp(target: Target) -> Iterator[Case]:
    yield lambda dice: envelopes.any_bytes_case(target.addresses["zmq"], dice)


@contextmanager
def _frames(target: Target) -> Iterator[Case]:
    deployment = versioned(target.addresses["http"], "Probe", target.entrance)
    path = endpoint_of(target.app_id, "-router-0")
    yield lambda dice: plane.any_case(path, deployment, dice)


@contextmanager
def _control(target: Target) -> Iterator[Case]:
    path = endpoint_of(target.app_id, "-supervisor")
    yield lambda dice: plane.any_control_case(path, dice)


KINDS: Final[dict[str, Kind]] = {
    "http": _http,
    "smuggling": _shapes,
    "h2": _h2,
    "grpc": _rpc("grpc", rpc.any_grpc),
    "flight": _rpc("flight", rpc.any_flight),
    "zmq": _dealer(envelopes.any_case),
    "zmtp": _zmtp,
    "frames": _frames,
    "control": _control,
}


# ---- of an app behind TLS, CURVE and `--auth`


def _entrance(target: Target) -> Entrance:
    assert target.entrance is not None
    return target.entrance


@contextmanager
def _tls(target: Target) -> Iterator[Case]:
    entrance = _entrance(target)
    yield lambda dice: handshakes.any_case(
        target.addresses[dice.choice(("http", "http", "grpc", "flight"))], entrance, dice
    )


@contextmanager
def _in_tls_http(target: Target) -> Iterator[Case]:
    entrance, every = _entrance(target), list(shapes())
    tls, address = entrance.context("http/1.1"), target.addresses["http"]

    def case(dice: random.Random) -> Counter[str]:
        if dice.random() < 0.1:
            return http.shape_case(address, dice.choice(every), tls)
        return http.any_case(address, dice, tls, entrance.authorization if dice.random() < 0.8 else "")

    yield case


@contextmanager
def _in_tls_h2(target: Target) -> Iterator[Case]:
    tls = _entrance(target).context("h2")
    yield lambda dice: http.any_h2(target.addresses[dice.choice(("grpc", "flight"))], dice, tls)


@contextmanager
def _curve(target: Target) -> Iterator[Case]:
    entrance, address = _entrance(target), target.addresses["zmq"]

    def case(dice: random.Random) -> Counter[str]:
        by_hand = dice.random() < 0.5
        return curve.by_hand(address, dice) if by_hand else curve.relayed(address, entrance, dice)

    yield case


@contextmanager
def _who_http(target: Target) -> Iterator[Case]:
    tls = _entrance(target).context("http/1.1")
    yield lambda dice: who.by_http(target.addresses["http"], tls, dice)


SECURED: Final[dict[str, Kind]] = {
    "tls": _tls,
    "tls-http": _in_tls_http,
    "tls-h2": _in_tls_h2,
    "tls-grpc": _rpc("grpc", rpc.any_grpc),
    "tls-flight": _rpc("flight", rpc.any_flight),
    "curve": _curve,
    "curve-zmq": _dealer(envelopes.any_case),
    "who-frames": _frames,
    "who-http": _who_http,
    "who-grpc": _rpc("grpc", who.by_rpc, is_known=False),
    "who-flight": _rpc("flight", who.by_rpc, is_known=False),
    "who-zmq": _dealer(who.by_dealer, is_known=False),
}
EVERY: Final = {**KINDS, **SECURED}
