"""flightserve with the model that its peers serve too."""

from __future__ import annotations

import flightserve as fs
from benchmarks import estimator

app = fs.App(
    fs.models.Sklearn(estimator.ensure(), name=estimator.NAME, trusted=True, max_batch_rows=estimator.BATCH_MAX)
)
