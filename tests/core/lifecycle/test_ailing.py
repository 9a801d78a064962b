"""Of replicas that are not well one makes room at a time, and only while all others are there."""

from __future__ import annotations

from flightserve.core.lifecycle.ailing import Patient, turns

MODEL, OTHER = ("Model", "v1"), ("Other", "v1")
PLACES = {MODEL: {"Model-0", "Model-1", "Model-2"}, OTHER: {"Other-0"}}


def replicas(ailing: str, ready: str = "012") -> list[Patient]:
    """Those of Model that are ready, and one of Other."""
    model = [Patient(int(n), MODEL, f"Model-{n}", n in ailing) for n in ready]
    return [*model, Patient(9, OTHER, "Other-0", "9" in ailing)]


def test_whoever_is_well_stays() -> None:
    assert turns(replicas(""), PLACES) == []


def test_all_fail_and_one_at_a_time_makes_room() -> None:
    assert turns(replicas("012"), PLACES) == [0]
    assert turns(replicas("12", ready="12"), PLACES) == []
    assert turns(replicas("12"), PLACES) == [1]


def test_each_deployment_has_its_own_turns() -> None:
    assert turns(replicas("29"), PLACES) == [2, 9]
    assert turns(replicas("29", ready="2"), PLACES) == [9]


def test_a_version_that_is_not_wanted_any_more_goes_by_itself() -> None:
    assert turns([Patient(1, ("Model", "v0"), "Model-0", True)], PLACES) == []
