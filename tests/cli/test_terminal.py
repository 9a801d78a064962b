"""What the command shows of an app: lines, colours, the banner, tables that load, and `status` that is watched."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import pty
import re
import shlex
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pexpect
import pyarrow as pa
import pytest

from flightserve.cli import drawing
from flightserve.cli.banner import TABLES_MAX, Ready, ShownCall, line_to_paste, lines
from flightserve.cli.capturing import Captured, Lines
from flightserve.cli.colour import has_colour, is_dumb
from flightserve.cli.drawing import LoadingDisplay
from flightserve.cli.progress import Progress, counted
from flightserve.cli.samples import call_of
from flightserve.cli.serving import print_ready
from flightserve.cli.status import WATCH_S_MAX, WATCH_S_MIN, interval, render
from flightserve.cli.terminal import Terminal, chosen_format
from flightserve.control.messages import ChildView, DeploymentView, View
from flightserve.errors import Unavailable
from flightserve.types import DeploymentOptions, DeploymentSpec, MethodSpec
from flightserve.wire.log_lines import MESSAGE_CHARS_MAX
from flightserve.wire.log_text import LOADING
from tests.support import eventually

TERMINAL = {"TERM": "xterm-256color"}


@pytest.mark.parametrize(
    ("is_terminal", "environment", "colour"),
    [
        (True, TERMINAL, True),
        (False, TERMINAL, False),
        (True, {**TERMINAL, "NO_COLOR": "1"}, False),
        (True, {**TERMINAL, "NO_COLOR": ""}, True),
        (False, {"FORCE_COLOR": "1"}, True),
        (True, {**TERMINAL, "FORCE_COLOR": "0"}, False),
        (False, {"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
        (True, {"TERM": "dumb"}, False),
        (True, {}, False),
        (True, {"TERM": "dumb", "FORCE_COLOR": "3"}, True),
    ],
)
def test_who_gets_colour(is_terminal: bool, environment: dict[str, str], colour: bool) -> None:
    assert has_colour(is_terminal, environment) is colour


def test_dumb_terminals_are_known() -> None:
    assert [is_dumb({"TERM": term}) for term in ("dumb", "", "unknown", "xterm", "screen")] == [True] * 3 + [False] * 2


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


# ---- lines


def record(level: str = "INFO", logger: str = "mine", **more: Any) -> dict[str, Any]:
    said = {"time": "2026-01-31T12:00:00.000Z", "level": level, "logger": logger, "process": "replica-M-0"}
    return {**said, "message": "said", **more}


def shown(form: str, level: str, *records: dict[str, Any]) -> list[str]:
    out = io.StringIO()
    terminal = Terminal(form, level, out)
    for each in records:
        terminal.write(each)
    return out.getvalue().splitlines()


def test_the_format_is_for_who_reads() -> None:
    assert (chosen_format(None, Tty()), chosen_format(None, io.StringIO())) == ("text", "json")
    assert (chosen_format("json", Tty()), chosen_format("text", io.StringIO())) == ("json", "text")
    closed = io.StringIO()
    closed.close()
    assert chosen_format(None, closed) == "json"


def test_json_has_all_but_what_is_for_who_looks_for_faults() -> None:
    inner = record(logger="flightserve.control.processes")
    assert list(map(json.loads, shown("json", "", inner, record("DEBUG")))) == [inner]


def test_a_level_that_was_asked_for_holds_for_all_but_prints() -> None:
    inner, printed = record(logger="flightserve.control.processes"), record(logger="stdout")
    assert len(shown("text", "", inner, record("DEBUG"), record())) == 1
    assert len(shown("text", "info", inner, record("DEBUG"), record())) == 2
    assert len(shown("text", "debug", inner, record("DEBUG"), record())) == 3
    assert len(shown("text", "error", inner, printed, record("WARNING"), record("ERROR"))) == 2
    assert len(shown("json", "error", inner, printed, record("WARNING"), record("ERROR"))) == 2


def test_a_reader_that_is_gone_fails_nobody() -> None:
    out = io.StringIO()
    terminal = Terminal("json", "", out)
    out.close()
    terminal.write(record())
    terminal.show(["a"])


@pytest.mark.parametrize("gone_at_once", [True, False])
def test_a_terminal_that_is_gone_fails_no_start(gone_at_once: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was hung up answers with EIO."""
    monkeypatch.setenv("TERM", TERMINAL["TERM"])
    reached = False
    ours, theirs = pty.openpty()
    with contextlib.suppress(OSError), open(theirs, "w", closefd=False) as out:
        terminal = Terminal("text", "", out)
        if gone_at_once:
            os.close(ours)
        terminal.begin()
        if not gone_at_once:
            os.close(ours)
        terminal.starting(1, 4)
        terminal.write(record(logger=LOADING, table="flights", share=0.4))
        terminal.write(record())
        terminal.end()
        terminal.show(["a"])
        reached = True
    os.close(theirs)
    assert reached


@pytest.mark.parametrize("closed", ["2>&-", ">&- 2>&-"])
def test_who_closes_the_streams_harms_nobody(closed: str) -> None:
    program = (
        "import os, sys; from flightserve.cli.log_options import LogOptions, opened\n"
        "with opened(LogOptions()) as (out, terminal): terminal.show(['nobody hears']); os.write(2, b'this\\n')\n"
        "sys.exit(7)"
    )
    assert subprocess.run(f'{sys.executable} -c "{program}" {closed}', shell=True, check=False).returncode == 7


@pytest.mark.parametrize("form", ["json", "text"])
def test_who_reads_no_more_does_not_change_how_it_ends(form: str) -> None:
    program = (
        "import sys; from flightserve.cli.log_options import LogOptions, opened\n"
        f"with opened(LogOptions('{form}')) as (out, terminal): terminal.show(['nobody reads'])\n"
        "sys.stderr = None; sys.exit(7)"
    )
    reading, writing = os.pipe()
    os.close(reading)
    assert subprocess.run([sys.executable, "-c", program], stderr=writing, check=False).returncode == 7
    os.close(writing)


@pytest.mark.parametrize(("flushed", "status"), [(True, 7), (False, 1)])
def test_what_cannot_be_written_for_programs_is_said_once(flushed: bool, status: int) -> None:
    program = (
        "import sys; from flightserve.cli.output import StdoutForPrograms\n"
        "with StdoutForPrograms() as out:\n"
        f"    try: print('a', file=out, flush={flushed})\n"
        "    except OSError: sys.exit(7)\n"
    )
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", program], stdout=full, stderr=subprocess.DEVNULL, check=False)
    assert done.returncode == status


def test_addresses_that_cannot_be_written_end_the_start() -> None:
    running: Any = SimpleNamespace(addresses={}, status=lambda: SimpleNamespace(children=()))
    with open("/dev/full", "w") as full:
        with pytest.raises(Unavailable, match="cannot be written to standard output: No space left on device"):
            print_ready(running, full)
        with contextlib.suppress(OSError):
            full.close()


# ---- the banner


def spec(name: str, *methods: MethodSpec, kind: str = "class", replicas: int = 1) -> DeploymentSpec:
    return DeploymentSpec(name, "1", DeploymentOptions(replicas=replicas), methods, kind=kind)


SCHEMA = pa.schema({"price": pa.float64(), "on": pa.date32(), "name": pa.string(), "n": pa.int8(), "ok": pa.bool_()})
DECLARED = spec("Pricing", MethodSpec("explain"), MethodSpec("charge", input_schema=SCHEMA.serialize().to_pybytes()))
ADDRESSES = {
    "http": "http://127.0.0.1:8080",
    "grpc": "127.0.0.1:50051",
    "flight": "grpc://127.0.0.1:8815",
    "zmq": "tcp://127.0.0.1:5555",
}


def test_the_banner_says_where_what_and_how() -> None:
    specs = [DECLARED, spec("Other", replicas=3)]
    text = "\n".join(lines(Ready("1.2", 3.21, ADDRESSES, specs, call_of(specs)), colour=False))
    assert "flightserve 1.2 is ready after 3.2 s" in text
    assert "Pricing (1 replica), Other (3 replicas)" in text
    assert "docs    http://127.0.0.1:8080/docs\n  console http://127.0.0.1:8080/console\n" in text
    assert "curl -s http://127.0.0.1:8080/v1/Pricing/charge -H 'content-type: application/json' -d '" in text
    for address in ADDRESSES.values():
        assert text.count(address) >= 2, address


def test_lines_to_paste_stand_in_the_shells_quotes() -> None:
    call = ShownCall("M", "f", {"columns": {"it's": [None, True, "a \"b\" 'c' \\d"]}})
    ready = Ready("1", 1.0, ADDRESSES, [DECLARED], call)
    for protocol, address in ADDRESSES.items():
        words = shlex.split(line_to_paste(protocol, address, ready))
        if words[0] == "curl":
            assert json.loads(words[-1]) == call.body
        else:
            compile(words[2], protocol, "exec")
            if protocol == "zmq":
                said = words[2].partition("from_pydict(")[2].partition("); s =")[0]
                assert eval(said, {"json": json}) == call.body["columns"]


def test_in_tls_lines_to_paste_trust_a_file() -> None:
    addresses = {"http": "https://h:1", "grpc": "h:2", "flight": "grpc+tls://h:3", "zmq": "tcp://h:4"}
    text = "\n".join(
        lines(Ready("1", 1.0, addresses, [DECLARED], call_of([DECLARED]), tls=True, curve=True), colour=False)
    )
    assert "curl -s --cacert ca.pem https://h:1/v1/" in text
    assert 'grpc.secure_channel("h:2", grpc.ssl_channel_credentials(open("ca.pem", "rb").read()))' in text
    assert 'f.connect("grpc+tls://h:3", tls_root_certs=open("ca.pem", "rb").read())' in text
    assert "tcp://h:4" in text and "zmq.Context" not in text
    assert "which is to be your CA's certificate" in text


def test_a_unix_socket_has_a_line_to_paste_and_no_page() -> None:
    undeclared = spec("M", MethodSpec("f"))
    addresses = {"http": "unix:/run/it's/http.sock", "grpc": "unix:/run/grpc.sock"}
    text = "\n".join(lines(Ready("1", 1.0, addresses, [undeclared], call_of([undeclared])), colour=False))
    (curl,) = [line for line in text.splitlines() if "curl" in line]
    assert shlex.split(curl) == ["curl", "-s", "--unix-socket", "/run/it's/http.sock", "http://localhost/v1/M/f"]
    assert 'insecure_channel("unix:/run/grpc.sock")' in text
    assert "docs  " not in text


def test_where_nothing_is_declared_the_page_is_asked() -> None:
    undeclared = spec("M", MethodSpec("f"))
    assert call_of([undeclared]) == ShownCall("M", "f", None)
    text = "\n".join(lines(Ready("1", 1.0, ADDRESSES, [undeclared], call_of([undeclared])), colour=False))
    assert "curl -s http://127.0.0.1:8080/v1/M/f\n" in text


def test_tables_are_shown_with_their_rows_and_bounded() -> None:
    rows: dict[str, int | None] = {f"t{number}": number * 1000 for number in range(TABLES_MAX + 5)}
    warehouse = spec("warehouse", MethodSpec("query"), kind="sql")
    text = "\n".join(lines(Ready("1", 1.0, ADDRESSES, [warehouse], call_of([warehouse]), rows), colour=False))
    assert "    t1    1,000 rows\n" in text
    assert "and 5 more" in text
    assert """-d '{"query": "FROM \\"t0\\" LIMIT 5"}'""" in text


def test_an_app_with_one_protocol_or_none_has_a_banner_too() -> None:
    for addresses in ({"grpc": "127.0.0.1:1"}, {"http": "http://x"}, {}):
        assert lines(Ready("1", 1.0, addresses, [spec("M")]), colour=True)[-2] == "Ctrl-C stops it."


# ---- progress


def child(name: str, ready: bool = True, pid: int = 5) -> ChildView:
    return ChildView(name, name.split("-", maxsplit=1)[0], "", "serving", ready, pid, 1, 0, 1.0)


def view(phase: str, *children: ChildView, problem: str = "", change: str = "") -> View:
    return View("id", phase, problem, "", 1, 1, {}, children, change=change)


def test_who_became_ready_is_told_once_and_again_as_another_process() -> None:
    progress = Progress()
    steps = [
        view("starting", child("router-0"), child("replica-M-0", ready=False)),
        view("ready", child("router-0"), child("replica-M-0"), child("standby-0")),
        view("degraded", child("router-0", ready=False), problem="waiting for replica-M-0"),
        view("ready", child("router-0"), child("replica-M-0", pid=6), change="Pricing: 1 of 2"),
    ]
    assert [list(progress.told(step)) for step in steps] == [
        ["router-0 is ready"],
        ["M-0 is ready"],
        ["degraded: waiting for replica-M-0"],
        ["M-0 is ready again", "all is ready again", "changing: Pricing: 1 of 2"],
    ]
    assert counted(steps[0]) == (1, 2)


# ---- loading


@pytest.mark.parametrize("width", [10, 40, 200])
def test_a_table_that_loads_is_drawn_as_wide_as_there_is_room(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    out = Tty()
    display = LoadingDisplay(out, colour=False)
    display.starting(1, 4)
    loading = record(logger=LOADING, table="fli\x1b[2Jghts", share=0.4, about="40% of a.parquet (5.2 MB)")
    assert display.take(loading)
    display.print(["a line of the log"])
    assert not display.take(record(logger=LOADING, table="fli\x1b[2Jghts", rows=5)), "that it is there is told as well"
    display.close()
    text = out.getvalue()
    assert "a line of the log" in text
    assert "fli\x1b[2J" not in text
    if width == 200:
        assert "flights" in text and "40% of a.parquet (5.2 MB)" in text and "1 of 4 processes" in text


def test_many_tables_are_drawn_a_few_at_a_time() -> None:
    out = Tty()
    display = LoadingDisplay(out, colour=False)
    for number in range(50):
        assert display.take(record(logger=LOADING, table=f"t{number}", share=0.1))
    display.close()
    assert set(re.findall(r"\bt\d+\b", out.getvalue())) == {f"t{number}" for number in range(drawing.TABLES_MAX)}


def test_elsewhere_rows_are_remembered_and_told_plainly() -> None:
    out = io.StringIO()
    terminal = Terminal("text", "", out)
    terminal.write(record(logger=LOADING, table="flights", rows=5))
    terminal.write(record("DEBUG", logger=LOADING, table="flights", share=0.5))
    assert terminal.rows == {"flights": 5}
    assert out.getvalue().count("\n") == 1


# ---- raw text


def test_raw_lines_come_whole_bounded_and_readable() -> None:
    lines = Lines()
    assert lines.feed(b"a\nb") == ["a"]
    assert lines.holds
    assert lines.feed(b"c\r\n\xff\n") == ["bc", "\\xff"]
    assert lines.rest() == []
    assert [len(each) for each in lines.feed(b"x" * (3 * MESSAGE_CHARS_MAX))] == [3 * MESSAGE_CHARS_MAX]
    lines.feed(b"left")
    assert lines.rest() == ["left"]


def test_what_is_written_to_the_descriptors_is_taken_to_the_last_byte() -> None:
    seen: list[str] = []
    with Captured(seen.extend) as (out, errors):
        os.write(1, b"on one\n")
        os.write(2, b"no end")
        eventually(lambda: seen == ["on one", "no end"])
        os.write(2, b"".join(b"%d\n" % number for number in range(20_000)))
        assert out.fileno() not in (1, 2) and errors.fileno() not in (1, 2)
    assert seen[2:] == [*map(str, range(20_000))]


@pytest.mark.parametrize("busy", ["lambda lines: None", "lambda lines: taken.wait()"])
def test_who_writes_on_or_does_not_read_ends_no_process(busy: str) -> None:
    program = (
        "import subprocess, sys, threading; from flightserve.cli import capturing\n"
        "taken, capturing.END_S = threading.Event(), 0.1\n"
        f"with capturing.Captured({busy}) as (out, errors): writer = subprocess.Popen(['yes'])\n"
        "taken.set(); writer.kill()\n"
        "for thread in threading.enumerate():\n    thread.daemon and thread.join()\n"
        "sys.exit(7)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (7, b"")


# ---- status


def test_status_is_coloured_by_how_things_are_and_stays_a_table() -> None:
    deployments = (DeploymentView("M", "a1", "served", 1, 1, 0),)
    app = View("id", "degraded", "why", "", 1, 1, {}, (child("router-0"), child("router-1", ready=False)), deployments)
    plain, coloured = render(app), render(app, colour=True)
    assert "\x1b" not in plain
    assert "\x1b[31mdegraded\x1b[0m" in coloured and "\x1b[32myes\x1b[0m" in coloured
    assert coloured.replace("\x1b[31m", "").replace("\x1b[32m", "").replace("\x1b[0m", "") == plain


@pytest.mark.parametrize("text", ["100ms", "2h", "0", "soon"])
def test_nobody_watches_too_often_or_hardly_ever(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        interval(text)
    assert (interval("200ms"), interval("1h")) == (WATCH_S_MIN, WATCH_S_MAX)


def watched(*options: str, **how: Any) -> Any:
    command = ["-m", "flightserve", "status", "--app", "no such app", "--watch", *options]
    return pexpect.spawn(sys.executable, command, env={**os.environ, **TERMINAL}, timeout=30, encoding="utf-8", **how)


@pytest.mark.parametrize("end", ["q", "\x03"])
def test_a_watch_draws_on_a_screen_of_its_own_until_told_to_stop(end: str) -> None:
    with watched("1h", dimensions=(10, 30)) as seen:
        seen.expect_exact("\x1b[?1049h")
        seen.expect("no app no such app runs")
        seen.setwinsize(20, 60)
        seen.send(end)
        seen.expect_exact("\x1b[?1049l")
        seen.expect(pexpect.EOF)
        seen.wait()
        assert seen.exitstatus == 0


def test_a_watch_in_a_pipe_prints_one_look_after_another() -> None:
    program = "import sys; from flightserve.cli.main import main; sys.exit(main(sys.argv[1:]))"
    command = f"{sys.executable} -c '{program}' status --app none --watch 200ms 2>&1 | cat"
    with pexpect.spawn("sh", ["-c", command], timeout=30, encoding="utf-8") as seen:
        for _ in range(3):
            seen.expect_exact("no app none runs on this machine\r\n")
        assert "\x1b" not in seen.before
        seen.sendintr()
        seen.expect(pexpect.EOF)
