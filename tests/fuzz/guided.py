"""`python -m tests.fuzz.guided NAME`: one reader of strangers' bytes with atheris, which makes its cases of those that
came to new lines of `flightserve`. `make fuzz ARGS="--atheris"` runs all of them."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

# `make` puts it there: a program of its own kind, for this alone.
LIBRARY: Final = Path("build/atheris")
FOUND: Final = Path("build/fuzz")
TAIL_CHARS_MAX: Final = 6000
BYTES_MAX: Final = 4096
# libFuzzer's own bounds on a case.
_BOUNDS: Final = ("-timeout=10", "-rss_limit_mb=2048", f"-max_len={BYTES_MAX}")


def guide(name: str, seed: int, seconds: float) -> str:
    """Run one reader for so long in a process of its own. What was found; "" for nothing."""
    command = [
        sys.executable,
        "-m",
        "tests.fuzz.guided",
        name,
        "--seed",
        str(seed),
        "--seconds",
        str(int(seconds) or 1),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return "" if not done.returncode else done.stdout[-TAIL_CHARS_MAX:] + done.stderr[-TAIL_CHARS_MAX:]


def main() -> None:
    """Does not return: libFuzzer ends the process."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.guided", description=__doc__)
    parser.add_argument("name", help="of a reader")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--case", type=Path, default=None, metavar="FILE", help="this one alone, as a finding names it")
    arguments = parser.parse_args()
    sys.path.append(str(LIBRARY))
    import atheris

    with atheris.instrument_imports(include=["flightserve"]):
        from tests.fuzz import parsers

    reader = parsers.PARSERS[arguments.name]
    if arguments.case is not None:
        _start(atheris, reader, [str(arguments.case)])
    FOUND.mkdir(parents=True, exist_ok=True)
    prefix = FOUND / f"{arguments.name.replace(' ', '-').replace(chr(39), '')}-"
    with tempfile.TemporaryDirectory() as corpus:
        for number, data in enumerate(reader.seeds):
            (Path(corpus) / str(number)).write_bytes(data)
        options = [f"-seed={arguments.seed}", f"-max_total_time={arguments.seconds}", f"-artifact_prefix={prefix}"]
        _start(atheris, reader, [*options, *_BOUNDS, corpus])


def _start(atheris: Any, reader: Any, options: list[str]) -> None:
    from tests.fuzz import parsers

    def one(data: bytes) -> None:
        parsers.check(reader, data)

    atheris.Setup([sys.argv[0], *options], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
