"""ROAPI, a read-only API server in Rust (DataFusion), over the same files: ready when it answers Flight SQL."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path

import adbc_driver_flightsql.dbapi as adbc
import adbc_driver_manager

from benchmarks.processes import free_port


def answers(address: str) -> bool:
    """Whether a Flight SQL server runs there."""
    try:
        with adbc.connect(address, autocommit=True) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            return bool(cursor.fetchall())
    except adbc_driver_manager.Error:
        return False


def main(tables: list[str]) -> None:
    """Serve until SIGTERM."""
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    port = free_port()
    command = [str(Path(sys.executable).with_name("roapi")), "--addr-flight-sql", f"127.0.0.1:{port}"]
    for flag in ("--addr-http", "--addr-postgres"):
        command += [flag, f"127.0.0.1:{free_port()}"]
    command += [argument for table in tables for argument in ("--table", table)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=sys.stderr) as server:
        address = f"grpc://127.0.0.1:{port}"
        while not answers(address):
            if server.poll() is not None or ended.wait(0.2):
                break
        else:
            print("ready", json.dumps({"flight": address}), flush=True)
            ended.wait()
        server.terminate()


if __name__ == "__main__":
    main(sys.argv[1:])
