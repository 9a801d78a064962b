"""Threads of the numerical libraries: a replica's process gets as many as it has reserved, other processes are left."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import joblib
import numpy as np
import pyarrow as pa
import pytest

import flightserve as fs
from flightserve.models import serving
from tests.models.late import sk


@pytest.mark.parametrize(("cpus", "threads"), [(0.5, 1), (1, 1), (1.5, 2), (4, 4), (0, int(pa.cpu_count()))])
def test_as_many_as_are_reserved_and_all_where_none_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cpus: float, threads: int
) -> None:
    limited: list[int] = []
    monkeypatch.setattr(serving, "limit_threads", limited.append)
    joblib.dump(sk().LinearRegression().fit(np.zeros((2, 1)), [0, 1]), tmp_path / "m.joblib")
    model: Any = fs.models.Sklearn(tmp_path / "m.joblib", num_cpus=cpus, trusted=True).bind().make()
    model.flightserve_hosted(SimpleNamespace(own_process=False))
    assert limited == []
    model.flightserve_hosted(SimpleNamespace(own_process=True))
    assert limited == [threads]
