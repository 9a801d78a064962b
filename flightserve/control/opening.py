"""Who can come to an app, and how: it is refused where it would be open by accident.

Messages begin with the option's name in Python, of which the command makes its own.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from typing import Final

from flightserve.config import FILES, FrontendOptions
from flightserve.control import ports
from flightserve.errors import ConfigError, Unavailable
from flightserve.frontends import certificates

log = logging.getLogger("flightserve.control.opening")

_ZMQ_LEFT_OUT: Final = (
    "ZeroMQ is left out: it knows no TLS, and would be readable beside it. --zmq-keys DIR (zmq_keys=...) serves it "
    "over CURVE, with keys of `flightserve keys DIR`; --no-zmq (zmq_port=None) says that it is not wanted"
)


def check(options: FrontendOptions) -> list[str]:
    """Raises ConfigError where others could call without being asked who they are, and for files that cannot be used:
    certificates, keys. What is wrong with those that can is no reason not to start, and told."""
    if options.auth is None and not options.insecure and (told := _exposed(options)):
        raise ConfigError(
            f"host {options.host}: {told}, and nobody is asked who he is. Say who may with --auth FILE "
            "(auth=...), listen on 127.0.0.1, or say that it is meant so with --insecure (insecure=True)"
        )
    files = certificates.TlsFiles.of(options)
    of_tls = [] if files is None else certificates.check(files)
    curve = options.zmq_keys is not None and options.zmq_port is not None
    return of_tls + (_keys(str(options.zmq_keys)) if curve else [])


def settle(options: FrontendOptions) -> FrontendOptions:
    """As every process is to have them: paths are whole, and beside TLS nothing is readable. Raises ConfigError as
    `check`; what is no reason not to start is told in the log."""
    told = check(options)
    paths = {name: os.path.abspath(path) for name in FILES if (path := getattr(options, name)) is not None}
    settled = dataclasses.replace(options, **paths)
    if options.tls_cert is not None and options.zmq_port is not None and options.zmq_keys is None:
        told.append(_ZMQ_LEFT_OUT)
        settled = dataclasses.replace(settled, zmq_port=None)
    for each in told:
        log.warning("%s", each)
    return settled


def _keys(folder: str) -> list[str]:
    from flightserve.frontends.zmq.curve import CurveKeys

    keys = CurveKeys(folder)
    keys.read()
    return keys.warnings()


def _exposed(options: FrontendOptions) -> str:
    try:
        return ports.open_to_others(options).replace("open to", "it would be open to", 1)
    except Unavailable as error:
        # No host at all; that is said where it is tried.
        log.debug("%s", error.message)
        return ""
