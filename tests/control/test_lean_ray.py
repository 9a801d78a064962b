"""What is replaced in Ray while it starts, and only then."""

from __future__ import annotations

from typing import Any

import pytest
from ray._private import ray_constants, services, state, utils
from ray._private.node import Node

from flightserve.control.lean_ray import AGENT, on_loopback, only_what_is_needed, replaced, seen_at_once


def _as_ray_has_them() -> list[Any]:
    return [
        *(Node.start_monitor, Node.start_log_monitor, Node.start_api_server, services.get_node),
        *(services._build_python_executable_command_memory_profileable, utils.get_dashboard_dependency_error),
        ray_constants.ENABLE_RAY_CLUSTER,
    ]


def test_all_is_as_it_was_whatever_happened_meanwhile() -> None:
    before = _as_ray_has_them()
    with pytest.raises(ZeroDivisionError), on_loopback(), only_what_is_needed(), seen_at_once():
        assert not set(map(id, before)) & set(map(id, _as_ray_has_them()))
        raise ZeroDivisionError
    assert _as_ray_has_them() == before


def test_only_the_agents_are_stood_in_for() -> None:
    with only_what_is_needed():
        python = services._build_python_executable_command_memory_profileable
        assert python("dashboard_agent", "/s") == python("runtime_env_agent", "/s") == list(AGENT)
        assert python("dashboard", "/s", unbuffered=False) == [AGENT[0]]


def test_the_raylet_is_asked_for_when_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    tables = [[], [{"NodeID": "another"}], [{"NodeID": "another"}, {"NodeID": "ab"}]]
    asked: list[str] = []

    class Gcs:
        def _initialize_global_state(self, options: object) -> None:
            assert options == "gcs:1"

        def node_table(self) -> list[dict[str, str]]:
            asked.append("table")
            return tables[len(asked) - 1]

        def get_node(self, node: str) -> str:
            asked.append(node)
            return "found"

    monkeypatch.setattr(services, "_get_gcs_client_options", lambda address: address)
    with replaced(state, GlobalState=Gcs), seen_at_once():
        assert services.get_node("gcs:1", "ab") == "found"
    assert asked == ["table", "table", "table", "ab"]
