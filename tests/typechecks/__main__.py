"""`python -m tests.typechecks`: type checkers over what users write. Exit status 1 where they say another thing than
they should.

`right/`, all examples and every Python block of the documents have no errors; `wrong/` has those that its lines name.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from tests.docs.test_snippets import PAGES
from tests.typechecks.checkers import compare, expected_of, run_mypy, run_pyright
from tests.typechecks.pages import write_pages

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "tests" / "typechecks"
MADE = ROOT / "build" / "typechecks"


def main() -> int:
    """Check all; says what is wrong on standard output."""
    shutil.rmtree(MADE, ignore_errors=True)
    MADE.mkdir(parents=True)
    write_pages(PAGES, ROOT, MADE)
    wrong = sorted((HERE / "wrong").glob("*.py"))
    paths = [*sorted((HERE / "right").glob("*.py")), *wrong, *sorted(MADE.rglob("*.py")), ROOT / "examples"]
    lines = compare(run_mypy(paths, ROOT), expected_of(wrong, 1), "mypy")
    lines += compare(run_pyright(paths, ROOT, MADE), expected_of(wrong, 2), "pyright")
    print("\n".join(lines) or f"types: {len(paths)} files are as they should be")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
