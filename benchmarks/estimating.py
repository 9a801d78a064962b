"""flightserve with the model that its peers serve too."""

from __future__ import annotations

import flightserve as fs
from benchmarks import estimator
from benchmarks.peers import work

app = fs.App(fs.models.Sklearn(estimator.ensure(), name=estimator.NAME, trusted=True, max_batch_rows=work.BATCH_MAX))
