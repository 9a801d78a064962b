"""A shop whose code is written by the tests: modules `shop` and `shop_prices` in a directory of their own."""

from __future__ import annotations

from pathlib import Path

# A micro-batch takes 20 ms without work: one runs at any time that a test may choose for a change, and a load with a
# full window leaves the cores to the processes that start.
SHOP = """
import os
import threading

import pyarrow as pa

import flightserve as fs
import shop_prices


@fs.deployment(replicas={replicas}{options})
class Shop:
    def __init__(self, ledger: str) -> None:
        {init}
        self._ledger = os.open(ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def price(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        threading.Event().wait(0.02)
        return self._answer(batch)

    @fs.method(idempotent=False)
    def book(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        threading.Event().wait(0.02)
        for number in batch.column("id").to_pylist():
            os.write(self._ledger, b"%d\\n" % number)
        return self._answer(batch)

    def _answer(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch.append_column("version", pa.array([shop_prices.VERSION] * batch.num_rows))

{more}

app = fs.App({served})
"""

SERVED = "Shop.bind({ledger!r})"


def write(
    directory: Path,
    version: int,
    *,
    init: str = "pass",
    replicas: str = "2",
    options: str = "",
    more: str = "",
    served: str = SERVED,
) -> None:
    """Write that version. What changes from one to the next is in `shop_prices`, which `shop` imports."""
    ledger = str(directory / "ledger")
    code = SHOP.format(init=init, replicas=replicas, options=options, more=more, served=served.format(ledger=ledger))
    (directory / "shop.py").write_text(code)
    (directory / "shop_prices.py").write_text(f"VERSION = {version}\n")
