"""What security costs, and what operators ask for beside."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks import console, encryption, tokens, traced
from benchmarks.figures import Figure
from benchmarks.harness import Bench


def run(bench: Bench) -> Sequence[Figure]:
    """All figures of the table."""
    return [*tokens.run(bench), *encryption.flight(bench), *traced.http(bench), *console.added(bench)]
