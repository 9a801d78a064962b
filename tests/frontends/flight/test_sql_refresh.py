"""`flightserve.Refresh` as an action of a Flight client."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import flight

import flightserve as fs
from flightserve.config import EdgeLimits
from flightserve.contracts.refreshing import Refreshed, RefreshOutcome
from flightserve.frontends.flight.server import FlightFrontend
from flightserve.metrics import Metrics
from flightserve.sql.warehouse.declare import Warehouse
from flightserve.testing import LocalService


def test_refresh_is_an_action(tmp_path: Any) -> None:
    path = tmp_path / "n.parquet"
    pq.write_table(pa.table({"n": [1]}), path)
    with LocalService(fs.App(Warehouse({"n": path}, name="w", threads=1))) as service:
        late: list[Refreshed] = []
        served = FlightFrontend(
            service,
            "127.0.0.1",
            0,
            EdgeLimits(),
            Metrics(),
            b"k" * 32,
            lambda name, deadline_ns: [*service.refresh(name, deadline_ns), *late],
        )
        client = flight.connect(served.start())

        def refresh(body: bytes = b"") -> dict[str, Any]:
            (result,) = client.do_action(flight.Action("flightserve.Refresh", body))
            answer: dict[str, Any] = json.loads(result.body.to_pybytes())
            return answer

        def columns() -> list[str]:
            info = client.get_flight_info(flight.FlightDescriptor.for_command(b"SELECT * FROM n"))
            rows = client.do_get(info.endpoints[0].ticket).read_all()
            assert rows.schema == info.schema
            return list(rows.column_names)

        assert "flightserve.Refresh" in {action.type for action in client.list_actions()}
        assert [each["changes"] for each in refresh()["replicas"]] == [0] and columns() == ["n"]
        pq.write_table(pa.table({"n": [1], "m": [2]}), path)
        (answer,) = refresh(b"w")["replicas"]
        assert (answer["changes"], answer["problem"]) == (1, "") and len(answer["replica"]) == 16
        assert answer["outcome"] == "refreshed" and refresh()["replicas"][0]["outcome"] == "unchanged"
        assert columns() == ["n", "m"], "what was remembered of the old columns is forgotten"
        for body, error in ((b"nobody", KeyError), (b"\xff", pa.ArrowInvalid)):
            with pytest.raises(error):
                refresh(body)
        late.append(Refreshed("replica-w-1", RefreshOutcome.LATE))
        with pytest.raises(flight.FlightTimedOutError, match=r"1 of the 2 replicas of w .*replica-w-1 did not"):
            refresh()
        client.close()
        served.stop()
