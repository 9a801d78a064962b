"""The identity deployment as flightserve's peers have it: ten numbers a request are ten rows, and as many requests at
most are put together."""

from __future__ import annotations

import flightserve as fs
from benchmarks.identity import Identity
from benchmarks.peers import work

NAME = "Numbers"
app = fs.App(fs.bind(Identity).options(name=NAME, max_batch_rows=work.BATCH_MAX * work.NUMBERS))
