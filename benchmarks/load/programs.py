"""Load generators in C, where they are found: wrk for HTTP, h2load for gRPC. Neither compares answers: it only counts
those that failed, so whoever asks them lets one of ours compare some before."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.load.orders import WrongAnswer, latencies
from benchmarks.processes import ProcessFailed

OVERTIME_S: Final = 30.0
_GRPC_HEADERS: Final = ("content-type: application/grpc", "te: trailers")
_SCRIPT: Final = Path(__file__).with_name("numbers.lua")


def found(program: str) -> bool:
    """Whether there is such a program."""
    return shutil.which(program) is not None


def wrk(url: str, body: str, connections: int, seconds: float) -> dict[str, Any]:
    """So many connections that post the body for `seconds`, of which wrk takes whole ones: `calls_per_s`, p50, p99.
    Raises WrongAnswer where a request failed."""
    seconds = max(1, round(seconds))
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", f"{OVERTIME_S:g}s", "-s", str(_SCRIPT)]
    return read_wrk(_output([*command, url, "--", body], seconds))


def read_wrk(said: str) -> dict[str, Any]:
    """What the script printed last."""
    told = json.loads(said.strip().splitlines()[-1])
    if told["broken"] or told["refused"] or not told["requests"]:
        raise WrongAnswer(f"wrk: {told}")
    return {
        "calls_per_s": told["requests"] / told["us"] * 1e6,
        "p50_us": told["p50_us"],
        "p99_us": told["p99_us"],
        "answered": told["requests"],
    }


def h2load(url: str, message: bytes, in_flight: int, seconds: float) -> dict[str, Any]:
    """One connection that keeps so many gRPC calls with this message in flight: `calls_per_s`, p50, p99."""
    with tempfile.TemporaryDirectory() as folder:
        body, log = Path(folder, "body"), Path(folder, "log")
        body.write_bytes(b"\0" + len(message).to_bytes(4, "big") + message)
        command = [
            "h2load",
            "-t1",
            "-c1",
            f"-m{in_flight}",
            "-D",
            f"{seconds * 1000:.0f}ms",
            "-d",
            str(body),
            f"--log-file={log}",
        ]
        headers = [word for header in _GRPC_HEADERS for word in ("-H", header)]
        said = _output([*command, *headers, url], seconds)
        return read_h2load(said, log.read_text())


def read_h2load(said: str, log: str) -> dict[str, Any]:
    """The rate that it told, and percentiles of the times that it noted: a line with begin, status and us for each."""
    counts = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", said)
    rate = re.search(r"finished in .*, ([\d.]+) req/s", said)
    if counts is None or rate is None or any(map(int, counts.groups()[1:])) or not int(counts[1]):
        raise WrongAnswer(f"h2load: {said[-300:]}")
    times_ns = [int(line.split()[2]) * 1000 for line in log.splitlines()]
    return {"calls_per_s": float(rate[1]), **latencies(times_ns), "answered": int(counts[1])}


def _output(command: Sequence[str], seconds: float) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + OVERTIME_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise ProcessFailed(f"{command[0]} did not end: {error}") from error
    if done.returncode:
        raise ProcessFailed(f"{command[0]} ended with {done.returncode}: {done.stderr[-300:]}")
    return done.stdout
