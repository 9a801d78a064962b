"""Whatever is raised can be told: to callers, to whoever runs the app, to the log."""

from __future__ import annotations

import logging

import pytest

from flightserve.errors import (
    KINDS,
    ExhaustedMidway,
    NotFound,
    ReplicaFailed,
    ResourceExhausted,
    SchemaMismatch,
    TooLarge,
    kind_of,
)
from flightserve.replica.faults import (
    MESSAGE_BYTES_MAX,
    TRACEBACK_CHARS_MAX,
    describe,
    describe_locally,
    report_failure,
    tell,
    traceback_of,
)
from tests.unruly import RAISED, OfTheUser

LOG = logging.getLogger("flightserve.tests.faults")


@pytest.mark.parametrize("what", RAISED)
def test_all_of_it_is_text_that_fits_and_can_be_written(what: str) -> None:
    error = RAISED[what]()
    for text in (describe(error), describe_locally(error), report_failure(error, "M.method", LOG).message):
        assert type(text) is str
        assert 0 < len(text.encode()) <= MESSAGE_BYTES_MAX
    assert len(traceback_of(error).encode()) < 2 * TRACEBACK_CHARS_MAX


def test_who_runs_the_app_is_told_of_paths_and_callers_are_not() -> None:
    error = FileNotFoundError(2, "No such file or directory", "/srv/models/one.bin")
    assert describe_locally(error).endswith("'/srv/models/one.bin'")
    assert "/srv" not in describe(error)
    assert describe_locally(NotFound("no table /srv/one")) == "no table /srv/one"


def test_a_class_made_from_one_of_ours_is_that_one_to_its_caller() -> None:
    class Mine(SchemaMismatch):
        pass

    told = report_failure(Mine("no such column"), "M.method", LOG)
    assert (type(told), told.message) == (SchemaMismatch, "no such column")
    assert KINDS[kind_of(told)] is SchemaMismatch
    broken = ReplicaFailed("the engine is gone")
    assert report_failure(broken, "M.method", LOG) is broken


def test_a_bound_that_a_method_ran_into_is_no_refusal_before_it_ran() -> None:
    class Mine(ResourceExhausted):
        pass

    for error in (ResourceExhausted("no more tokens"), Mine("no more tokens")):
        told = report_failure(error, "M.method", LOG)
        assert (type(told), told.message) == (ExhaustedMidway, "no more tokens")
    assert type(report_failure(TooLarge("no"), "M.method", LOG)) is TooLarge


def test_a_log_that_fails_fails_nobody() -> None:
    def refuse(record: logging.LogRecord) -> bool:
        raise OfTheUser("no logs")

    LOG.addFilter(refuse)
    try:
        tell(LOG, "lost")
        assert report_failure(ValueError("no"), "M.method", LOG).message == "ValueError: no"
    finally:
        LOG.removeFilter(refuse)
