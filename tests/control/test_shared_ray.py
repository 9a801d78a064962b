"""Apps of one program share a Ray: it ends with the last of them, and only if it is ours."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import ray

from flightserve.control import shared_ray
from flightserve.control.shared_ray import Held, hold, release
from flightserve.errors import Unavailable


class FakeFolder:
    def __init__(self) -> None:
        self.removed = False

    def remove(self) -> None:
        self.removed = True


class FakeRay:
    """What is started: says what happened to it."""

    def __init__(self) -> None:
        self.folder = FakeFolder()
        self.ended = False
        self.dead = ""

    def lost(self) -> str:
        return self.dead

    def stop(self) -> None:
        self.ended = True
        ray.shutdown()


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The Rays that were started or connected to, instead of real ones."""
    started: list[Any] = []
    up = [False]

    def begin(app_id: str, address: str | None) -> Held:
        up[0] = True
        started.append(FakeRay() if address is None else address)
        return Held(None if address is not None else started[-1], address)

    monkeypatch.setattr(shared_ray, "_begin", begin)
    monkeypatch.setattr(ray, "is_initialized", lambda: up[0])
    monkeypatch.setattr(ray, "shutdown", lambda: up.__setitem__(0, False))
    yield started
    monkeypatch.setattr(shared_ray, "_held", None)


def held(app: str, address: str | None = None) -> Held:
    found = hold(app, address)
    assert found is not None
    return found


def test_the_last_of_several_ends_it(begun: list[Any]) -> None:
    first, second = held("a"), held("b")
    assert first is second
    (started,) = begun
    release(first)
    assert not started.ended and ray.is_initialized()
    third = held("c")
    release(second)
    assert not started.ended
    release(third)
    assert started.ended and not ray.is_initialized()
    release(held("d"))
    assert len(begun) == 2


def test_a_ray_that_was_connected_to_is_left_by_the_last(begun: list[Any]) -> None:
    first, second = held("a", "127.0.0.1:1"), held("b", "127.0.0.1:1")
    third = held("c")
    for each in (third, first):
        release(each)
        assert ray.is_initialized()
    release(second)
    assert not ray.is_initialized()
    assert begun == ["127.0.0.1:1"]


def test_a_program_cannot_be_in_two(begun: list[Any]) -> None:
    first = held("a")
    with pytest.raises(Unavailable, match=r"serves from a Ray of its own already, and cannot from the Ray at h:1"):
        hold("b", "h:1")
    release(first)
    first = held("a", "h:1")
    with pytest.raises(Unavailable, match=r"serves from the Ray at h:1 already, and cannot from the Ray at h:2"):
        hold("b", "h:2")
    release(first)
    assert not ray.is_initialized()


def test_a_ray_of_the_programs_own_is_not_ended(begun: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    assert hold("a", None) is None
    assert begun == []


def test_one_that_died_takes_no_more_apps(begun: list[Any]) -> None:
    first = held("a")
    begun[0].dead = "Ray's raylet died"
    with pytest.raises(Unavailable, match="Ray's raylet died; stop what this program serves"):
        hold("b", None)
    release(first)
    assert begun[0].ended


def test_one_that_the_program_ended_does_not_take_the_next_with_it(begun: list[Any]) -> None:
    first = held("a")
    ray.shutdown()
    second = held("b")
    release(first)
    assert begun[0].folder.removed and not begun[0].ended
    assert not begun[1].ended and ray.is_initialized()
    # The thread that asks for lines goes with whom it asks for.
    assert first.ended.is_set() and not second.ended.is_set()
    release(second)
    assert second.ended.is_set()
    assert begun[1].ended
