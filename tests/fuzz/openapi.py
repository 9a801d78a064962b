"""schemathesis against `/openapi.json`: requests made from it, and answers held against it. It has an environment of
its own (`make fuzz` makes it), because its plugin would be loaded by every run of pytest."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Final

from tests.fuzz.running import Batch, Target

PROGRAM: Final = Path("build/schemathesis/bin/schemathesis")
SETTINGS: Final = Path(__file__).with_name("schemathesis.toml")
# Methods that raise, wait or end their process, which is what they are for.
LEFT_OUT: Final = "/(boom|picky|longer|mistyped|nothing|says|exits|never|slowly|large|whole)$"
TAIL_CHARS_MAX: Final = 8000


def check_openapi(target: Target, seed: int, examples: int) -> Batch:
    """So many requests for each operation."""
    batch = Batch("openapi", log_read=len(target.errors()))
    done = subprocess.run(
        [
            PROGRAM, "--config-file", SETTINGS, "run", f"{target.addresses['http']}/openapi.json", "--phases",
            "examples,fuzzing", "--exclude-path-regex", LEFT_OUT, "--max-examples", str(examples), "--seed", str(seed),
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    batch.codes["runs"] += 1
    if done.returncode:
        batch.findings.append(f"openapi: {done.stdout[-TAIL_CHARS_MAX:]}{done.stderr[-TAIL_CHARS_MAX:]}")
    return batch
