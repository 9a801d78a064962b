"""Without file descriptors: large requests end with a typed error or are answered, small ones never notice, and all is
well again afterwards."""

from __future__ import annotations

import json
import subprocess
import sys

STARVED = (sys.executable, "-m", "tests.router.starved")


def test_without_file_descriptors_errors_are_typed_small_requests_are_answered_and_all_recovers() -> None:
    done = subprocess.run(STARVED, capture_output=True, text=True, timeout=100, check=True)
    said = json.loads(done.stdout)
    assert set(said["large"]) <= {"OK", "ResourceExhausted", "ExhaustedMidway", "Unavailable"}
    assert len(set(said["large"])) > 1, "the limit was not felt"
    assert set(said["small"]) == set(said["after"]) == {"OK"}
    assert said["at_the_door"] == "OK"
    assert said["greeted"], "a connection that came while there was no descriptor was never taken in"
    assert "Traceback" not in done.stderr
