"""What user code prints and logs in a child, and how it comes to whoever started the app."""

from __future__ import annotations

import io
import itertools
import logging
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest
from ray._private.ray_logging import global_worker_stdstream_dispatcher as dispatcher

from flightserve.clock import NS_PER_S
from flightserve.control import carrying
from flightserve.control.carrying import FILES_MAX, RAY_PRINTER, Carrier, deliver_to, to_program
from flightserve.control.logs import PROGRESS, RecordHandler, record_of
from flightserve.control.messages import ChildView, View
from flightserve.control.patience import FIRST_S, SELDOM_S, Patience, waiting
from flightserve.control.printed import Printed, let_prints_end
from flightserve.wire.log_lines import MESSAGE_CHARS_MAX, decode, encode
from tests.identity.times import Times


class Stream:
    """A `Printed`, and what it said."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.passed_on: list[str] = []
        self.stream: Any = Printed(1, "<stdout>", self.said.append, self.passed_on.append)


@pytest.fixture
def out() -> Stream:
    return Stream()


# ---- what is printed


def test_a_print_is_one_message(out: Stream) -> None:
    print("a", 1, file=out.stream)
    print("two\nlines", file=out.stream)
    print("in ", end="", file=out.stream)
    print("pieces", file=out.stream)
    print(file=out.stream)
    assert out.said == ["a 1", "two\nlines", "in pieces"]


def test_a_flush_tells_what_there_is_but_no_bar_that_is_drawn_over(out: Stream) -> None:
    print("now", end="", flush=True, file=out.stream)
    for share in (10, 90):
        print(f"\r{share} %", end="", flush=True, file=out.stream)
    assert out.said == ["now"]
    print(file=out.stream)
    assert out.said == ["now", "90 %"]


def test_threads_do_not_mix_their_lines(out: Stream) -> None:
    print("mine, ", end="", file=out.stream)
    thread = threading.Thread(target=lambda: print("theirs", file=out.stream))
    thread.start()
    thread.join()
    print("all", file=out.stream)
    assert out.said == ["theirs", "mine, all"]


def test_what_is_left_of_lines_is_told_when_the_process_ends(out: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which it does in a thread that printed nothing."""
    monkeypatch.setattr("sys.stdout", out.stream)
    print("loading ...", end="")
    thread = threading.Thread(target=let_prints_end)
    thread.start()
    thread.join()
    assert out.said == ["loading ..."]


def test_a_line_without_end_is_told_in_pieces(out: Stream) -> None:
    for _ in range(5):
        out.stream.write("x" * (MESSAGE_CHARS_MAX // 2))
    assert [len(said) for said in out.said] == [MESSAGE_CHARS_MAX // 2 * 3]


def test_bytes_and_odd_characters_are_printed_too(out: Stream) -> None:
    out.stream.buffer.write(b"ok \xff\n")
    out.stream.write("half a pair \ud800\n")
    assert out.said == ["ok \\xff", "half a pair \ud800"]
    assert encode({"message": out.said[1]}).isascii()


def test_it_is_a_stream_like_any_other(out: Stream) -> None:
    out.stream.reconfigure(encoding="utf-8", line_buffering=True)
    assert (out.stream.encoding, out.stream.fileno(), out.stream.isatty()) == ("utf-8", 1, False)
    logging.StreamHandler(out.stream).handle(logging.makeLogRecord({"msg": "by a handler"}))
    assert out.said == ["by a handler"]
    with pytest.raises(TypeError, match="must be str, not bytes"):
        out.stream.write(b"")
    out.stream.close()
    with pytest.raises(ValueError, match="closed file"):
        print("more", file=out.stream)


def test_scripts_may_wrap_it_anew(out: Stream) -> None:
    wrapper = io.TextIOWrapper(out.stream.detach(), encoding="utf-8", line_buffering=True)
    print("größer", file=wrapper)
    assert out.said == ["größer"]


def test_what_ray_tells_its_log_goes_as_it_was(out: Stream) -> None:
    print(":actor_name:flightserve: replica M-0", file=out.stream)
    assert (out.said, out.passed_on) == ([], [":actor_name:flightserve: replica M-0"])


# ---- what is logged


def logged(**of: Any) -> dict[str, Any]:
    made = logging.makeLogRecord({"name": "mine", "levelno": 20, "levelname": "INFO", "msg": "said", **of})
    return record_of(made, "replica-M-0", {"deployment": "M"})


def test_a_record_keeps_what_was_added_but_for_what_it_has_itself() -> None:
    assert logged(rows=5, level="mine", time=0) | {"time": ""} == {
        "time": "", "level": "INFO", "logger": "mine", "process": "replica-M-0", "message": "said", "deployment": "M",
        "rows": 5,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("number", "name", "level"), [(PROGRESS, "Level 15", "DEBUG"), (25, "NOTICE", "INFO"), (99, "Level 99", "CRITICAL")]
)
def test_levels_of_others_become_known_ones(number: int, name: str, level: str) -> None:
    assert logged(levelno=number, levelname=name)["level"] == level


@pytest.mark.parametrize(
    ("number", "name", "level"), [(25, "NOTICE", "INFO"), (30, "\x1b[33mWARNING\x1b[0m", "WARNING")]
)
def test_levels_that_users_name_are_records_as_well(number: int, name: str, level: str) -> None:
    before = logging.getLevelName(number)
    logging.addLevelName(number, name)
    try:
        said = decode(encode(logged(levelno=number, levelname=name)))
        assert said is not None and said["level"] == level
    finally:
        logging.addLevelName(number, before)


class Silent:
    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_nothing_that_is_logged_raises() -> None:
    assert logged(msg="%d rows", args=("x",))["message"] == "%d rows (its arguments do not fit: TypeError)"
    assert logged(msg=Silent())["message"] == "a Silent (its arguments do not fit: RuntimeError)"
    handler = RecordHandler("p", lambda record: 1 / 0, dict)
    handler.handle(logging.makeLogRecord({}))


def test_a_traceback_is_in_its_record() -> None:
    try:
        raise ValueError("no")
    except ValueError as error:
        told = logged(exc_info=(type(error), error, error.__traceback__))
    assert told["exception"].splitlines()[-1] == "ValueError: no"


# ---- how it comes


def batch(*lines: str, pid: object = 7, is_err: bool = True) -> dict[str, Any]:
    return {"pid": pid, "is_err": is_err, "lines": lines, "actor_name": "flightserve: replica M-0"}


def test_lines_of_a_process_are_told_with_its_name() -> None:
    carrier = Carrier()
    (raw,) = carrier.records(batch("from C\x1b[2J"))
    assert (raw["process"], raw["deployment"], raw["logger"], raw["message"]) == (
        "replica-M-0", "M", "stderr", "from C",
    )  # fmt: skip
    ours = logged() | {"process": "router-0"}
    assert carrier.records(batch(encode(ours))) == [ours]
    (after,) = carrier.records(batch("more", is_err=False))
    assert (after["process"], after["logger"]) == ("router-0", "stdout"), "a standby has another name by then"


@pytest.mark.parametrize(
    ("line", "logger", "level"),
    [
        ("[2026-11-29 22:37:22,679 E 760 1122] logging.cc:474: died", "ray", "ERROR"),
        ("E0000 00:00:1764.1 12 server.cc:1] no", "grpc", "ERROR"),
        ("I0129 12:00:00.000000 12 server.cc:1] no", "grpc", "INFO"),
        ("WARNING: All log messages before absl::InitializeLog()", "grpc", "WARNING"),
        ("E is a letter", "stderr", "INFO"),
    ],
)
def test_libraries_lines_have_the_level_that_they_say(line: str, logger: str, level: str) -> None:
    (record,) = Carrier().records(batch(line))
    assert (record["logger"], record["level"]) == (logger, level)


def test_what_is_known_of_processes_is_bounded() -> None:
    carrier = Carrier()
    for pid in range(FILES_MAX + 10):
        carrier.records(batch(encode(logged()), pid=pid))
    assert len(carrier._files) == len(carrier._names) == FILES_MAX


def test_rays_autoscaler_has_nothing_to_say() -> None:
    assert Carrier().records(batch("a line", pid="autoscaler")) == []


# ---- in a program


@contextmanager
def handled_by(*handlers: logging.Handler) -> Iterator[None]:
    """The root logger has these handlers alone, and none of pytest's; ours has what a program finds it with."""
    root, ours = logging.getLogger(), logging.getLogger("flightserve")
    before = root.handlers[:], ours.handlers[:], ours.level, ours.propagate
    root.handlers[:], ours.handlers[:], ours.propagate = handlers, [], True
    ours.setLevel(logging.NOTSET)
    try:
        yield
    finally:
        root.handlers[:], ours.handlers[:], level, ours.propagate = before
        ours.setLevel(level)


def test_a_program_without_logging_sees_lines_of_text(capsys: pytest.CaptureFixture[str]) -> None:
    with handled_by():
        to_program(logged(request_ids=["find-me"]))
        to_program({**logged(), "logger": "flightserve.control.processes", "message": "of no interest"})
    assert capsys.readouterr().err.partition(" ")[2] == "M-0 said [find-me]\n"


class Seeing(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append(record)


def test_a_program_with_logging_gets_records_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    handler = Seeing()
    with handled_by(handler):
        to_program({**logged(), "level": "WARNING", "exception": "Traceback"})
        to_program(logged())
        (record,) = handler.seen
        assert (record.name, record.levelno, record.getMessage()) == ("mine", logging.WARNING, "said\nTraceback")
        assert record.__dict__["replica"] == "replica-M-0"
        assert capsys.readouterr().err == ""
        # A print is none of its logs: it is seen whatever level these have.
        to_program({**logged(), "logger": "stdout", "message": "printed"})
    assert capsys.readouterr().err.endswith("M-0 printed\n")


KILLED: Final = "[2026-11-30 15:00:00,123 E 71 71] (gcs_server) gcs_actor_scheduler.cc:1: Failed to kill actor NIL_ID"


def test_what_ray_calls_an_error_while_an_app_is_stopped_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    times = Times()
    stops = carrying.Stops(times.monotonic_ns)
    monkeypatch.setattr(carrying, "stops", stops)

    def level_of(line: str, pid: object) -> str:
        (record,) = Carrier().records({**batch(line, pid=pid), "actor_name": None})
        return str(record["level"])

    assert level_of(KILLED, "gcs_server") == "ERROR"
    stops.begin()
    stops.begin()
    assert level_of(KILLED, "gcs_server") == "INFO"
    assert level_of(KILLED, 71) == "INFO", "in a process of ours it is Ray's all the same"
    assert level_of("E1130 15:00:00.1 1 chttp2.cc:1] no", 71) == "ERROR", "of gRPC"
    assert level_of(encode(logged(levelno=40, levelname="ERROR")), 71) == "ERROR", "of ours"
    stops.end()
    times.advance(carrying.STOPPED_NS / NS_PER_S + 1)
    assert level_of(KILLED, "gcs_server") == "INFO", "another app is still being stopped"
    stops.end()
    assert level_of(KILLED, "gcs_server") == "INFO", "its lines are read a while later"
    times.advance(carrying.STOPPED_NS / NS_PER_S + 1)
    assert level_of(KILLED, "gcs_server") == "ERROR"


def test_nothing_that_a_program_does_with_records_or_that_lines_hold_comes_to_ray() -> None:
    deliver_to(lambda record: 1 / 0)
    try:
        carrying.take(batch("a line"))
        carrying.take({"pid": 7, "lines": None})
    finally:
        deliver_to(None)


def test_of_a_programs_own_ray_the_lines_of_others_are_printed_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    printed: list[dict[str, Any]] = []
    taken: list[dict[str, Any]] = []
    monkeypatch.setattr(dispatcher, "handlers", [(RAY_PRINTER, printed.append)])
    other = {**batch("of a task"), "actor_name": "Mine"}
    deliver_to(taken.append)
    try:
        for _ in range(2):
            carrying.carry_logs_beside()
            dispatcher.emit(other)
            dispatcher.emit(batch("of ours"))
    finally:
        deliver_to(None)
    assert (printed, [record["message"] for record in taken]) == ([other] * 2, ["of ours"] * 2)
    assert len(dispatcher.handlers) == 1


def test_a_ray_that_prints_nothing_is_left_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with `ray.init(log_to_driver=False)`."""
    monkeypatch.setattr(dispatcher, "handlers", [])
    carrying.carry_logs_beside()
    assert dispatcher.handlers == []


def test_a_traceback_that_is_printed_is_one_message(out: Stream) -> None:
    from flightserve.control.logs import _print_at_once

    try:
        raise ValueError("no")
    except ValueError as error:
        _print_at_once(traceback.TracebackException.from_exception(error), file=out.stream)
    assert len(out.said) == 1


# ---- patience


def view(*children: ChildView) -> View:
    return View("id", "starting", "waiting for more", "", 1, 1, {}, children)


def child(name: str, phase: str = "starting", age_s: float = 7.0, pid: int = 5) -> ChildView:
    tier, _, deployment = name.partition("-")
    return ChildView(name, tier, deployment, phase, phase == "serving", pid, 1, 0, age_s)


def test_who_is_still_being_made_is_told_longest_first() -> None:
    children = (
        child("replica-M-0"),
        child("router-0", "serving"),
        child("replica-M-1", age_s=9.0, pid=0),
        child("standby-0"),
    )
    told = waiting(view(*children))
    assert told == "still being made: M-1 (for 9 s, for which there is no process yet), M-0 (for 7 s)"
    assert waiting(view(*[child(f"replica-M-{n}") for n in range(20)])).endswith(", and 12 more")
    assert waiting(view()) == "waiting for more"


def test_waiting_is_told_of_ever_less_often() -> None:
    patience, makes = Patience(), view(child("replica-M-0"))
    told = [tenth / 10 for tenth in range(6000) if patience.told(makes, tenth / 10)]
    assert told[:4] == [FIRST_S, 2 * FIRST_S, 4 * FIRST_S, 8 * FIRST_S]
    assert {round(after - before) for before, after in itertools.pairwise(told[5:])} == {SELDOM_S}


def test_lines_are_asked_for_again_because_another_gcs_knows_nothing_of_us(monkeypatch: pytest.MonkeyPatch) -> None:
    """And that there is none now ends nothing."""
    from ray._private.worker import global_worker

    ended, asked = threading.Event(), []

    class Subscriber:
        def subscribe(self) -> None:
            asked.append(None)
            if len(asked) == 3:
                ended.set()
            raise ConnectionError("no GCS")

    monkeypatch.setattr(carrying, "ASK_AGAIN_S", 0.001)
    monkeypatch.setattr(global_worker, "gcs_log_subscriber", Subscriber(), raising=False)
    carrying.ask_again(ended)
    assert len(asked) == 3
