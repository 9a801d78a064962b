"""A reader's folder: runs a page's blocks one after another, and keeps what they start until the page ends."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

import httpx

from examples.flights.launch import ROOT, START_TIMEOUT_S, STOP_TIMEOUT_S
from tests.docs.blocks import Block

DEFAULT_PORTS = {"http": "8080", "grpc": "50051", "flight": "8815", "zmq": "5555"}
_PROTOCOLS = {port: protocol for protocol, port in DEFAULT_PORTS.items()}
_DEFAULT_PORT = re.compile(rf"(?<=[:=])(?:{'|'.join(_PROTOCOLS)})\b")
BLOCK_TIMEOUT_S = 60.0
SERVES = re.compile(r"(?m)^flightserve (?:run|sql) [^|]*\Z")
CHANGES = re.compile(r"(?m)^(flightserve (?:scale|deploy|status)\b)")
LINKED = ("examples",)

# Runs Python blocks in one namespace: a line of JSON each way, and what a block prints in between.
_RUNNER = """
import contextlib, io, json, linecache, sys, traceback
space = {"__name__": "__main__"}
for number, line in enumerate(sys.stdin):
    name, code = json.loads(line)
    linecache.cache[name] = (len(code), None, code.splitlines(True), name)
    out, failed = io.StringIO(), ""
    with contextlib.redirect_stdout(out):
        try:
            exec(compile(code, name, "exec"), space)
        except BaseException:
            failed = traceback.format_exc()
    sys.__stdout__.write(json.dumps([out.getvalue(), failed]) + "\\n")
    sys.__stdout__.flush()
"""


class SnippetFailed(AssertionError):
    """A block did not run, or ended with another status than 0."""


class Workspace:
    """A folder with `examples` in it as in a clone, the `.venv` on the path, and the served flights
    example at the default ports as far as the page can tell, until it serves something itself."""

    def __init__(self, folder: Path, example: Callable[[], Mapping[str, str]]) -> None:
        self.folder = folder
        self._example = example
        self._served: dict[str, str] | None = None
        self._server: subprocess.Popen[str] | None = None
        self._python: subprocess.Popen[str] | None = None
        self._environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        # Options for the tests that run now are none for those of a page.
        self._environment.pop("PYTEST_ADDOPTS", None)
        for name in LINKED:
            (folder / name).symlink_to(ROOT / name)

    def __enter__(self) -> Workspace:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.end_page()
        self._stop_server()

    def run(self, block: Block, name: str) -> str:
        """What the block prints, with the default ports in it. Raises SnippetFailed."""
        text = self._with_ports(block.text)
        if block.title:
            (self.folder / block.title).write_text(text + "\n")
            return ""
        if block.language == "python":
            return self._as_printed(self._run_python(text, name))
        if block.language == "sql":
            return self._ask(text)
        if SERVES.search(text):
            return self._as_printed(self._serve(text))
        return self._as_printed(self._run_shell(text))

    def end_page(self) -> None:
        """The page's Python process ends; its app goes on for pages that continue it."""
        if self._python is not None:
            self._python.communicate(timeout=BLOCK_TIMEOUT_S)
            self._python = None

    @property
    def addresses(self) -> Mapping[str, str]:
        """Of the page's app, by protocol; of the example, started at the first look, where the page serves none."""
        if self._served is None:
            self._served = dict(self._example())
        return self._served

    # ---- ports

    def _with_ports(self, text: str) -> str:
        return _DEFAULT_PORT.sub(lambda found: self._ports()[_PROTOCOLS[found[0]]], text)

    def _as_printed(self, text: str) -> str:
        for protocol, port in self._ports().items() if self._served else ():
            text = text.replace(f"127.0.0.1:{port}", f"127.0.0.1:{DEFAULT_PORTS[protocol]}")
        return text

    def _ports(self) -> dict[str, str]:
        return {protocol: address.rpartition(":")[2] for protocol, address in self.addresses.items()}

    # ---- what a block does

    def _run_python(self, code: str, name: str) -> str:
        if self._python is None:
            self._python = subprocess.Popen(
                [sys.executable, "-c", _RUNNER], cwd=self.folder, env=self._environment,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
        assert self._python.stdin is not None and self._python.stdout is not None
        watchdog = threading.Timer(BLOCK_TIMEOUT_S, self._python.kill)
        watchdog.start()
        try:
            self._python.stdin.write(json.dumps([name, code]) + "\n")
            self._python.stdin.flush()
            answer = self._python.stdout.readline()
        finally:
            watchdog.cancel()
        if not answer:
            raise SnippetFailed(f"{name}: the process ended, or took longer than {BLOCK_TIMEOUT_S:.0f} s")
        printed, failed = json.loads(answer)
        if failed:
            raise SnippetFailed(f"{name}:\n{failed}")
        return str(printed)

    def _run_shell(self, text: str) -> str:
        if CHANGES.search(text):
            text = CHANGES.sub(rf"\1 --app {self._app_id()}", text)
        ran = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text], cwd=self.folder, env=self._environment,
            capture_output=True, text=True, timeout=BLOCK_TIMEOUT_S, check=False,
        )  # fmt: skip
        if ran.returncode:
            raise SnippetFailed(f"{text}\nended with {ran.returncode}:\n{ran.stdout}{ran.stderr}")
        return ran.stdout

    def _ask(self, query: str) -> str:
        headers = {"content-type": "application/sql", "accept": "text/csv"}
        reply = httpx.post(f"{self.addresses['http']}/v1/sql", content=query, headers=headers, timeout=BLOCK_TIMEOUT_S)
        if reply.status_code != 200:
            raise SnippetFailed(f"{query}\n{reply.text}")
        return reply.text

    def _serve(self, text: str) -> str:
        """Start the block's last command, on free ports unless it names them, after those before; the `ready` line."""
        *before, last = re.sub(r"\\\n", " ", text).strip().splitlines()
        if before:
            self._run_shell("\n".join(before))
        self._stop_server()
        named = re.findall(r"--(?:no-)?(\w+)", last)
        free = [f"--{protocol}-port=0" for protocol in DEFAULT_PORTS if protocol not in named]
        command = f"exec {last} {shlex.join(free)}"
        self._server = subprocess.Popen(
            ["bash", "-c", command], cwd=self.folder, env=self._environment, stdout=subprocess.PIPE, text=True
        )
        watchdog = threading.Timer(START_TIMEOUT_S, self._server.terminate)
        watchdog.start()
        assert self._server.stdout is not None
        ready = self._server.stdout.readline()
        watchdog.cancel()
        if not ready.startswith("ready "):
            raise SnippetFailed(f"{last}: was not ready; its log is above")
        self._served = json.loads(ready.removeprefix("ready "))
        return ready

    def _app_id(self) -> str:
        """The id of the app at our address: others may run on the machine."""
        addresses = self.addresses
        asked = subprocess.run(
            ["flightserve", "status", "--json"], env=self._environment, capture_output=True, text=True, check=False
        )
        views = [json.loads(line) for line in asked.stdout.splitlines()]
        return str(next(view["app_id"] for view in views if view["addresses"] == addresses))

    def _stop_server(self) -> None:
        if self._server is None:
            return
        if self._server.poll() is None:
            self._server.send_signal(signal.SIGTERM)
        with self._server:
            status = self._server.wait(STOP_TIMEOUT_S)
        self._server = None
        assert status == 0, f"the app's exit status was {status}"
