"""mypy and pyright over files, and what they say as values."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

TIMEOUT_S = 600.0
# basedpyright is pyright as a package of PyPI's, with node; told to be no stricter than pyright's own `standard`.
MODE = "standard"
_EXPECTED = re.compile(r"# mypy: ([\w -]+), pyright: ([\w ]+)$")
# What is no fault of the file: names that pyarrow makes when it is imported, libraries without types, and answers of
# tritonclient that are declared None.
_OF_OTHERS = re.compile(
    r'not a known attribute of module "pyarrow|missing library stubs or py\.typed|"MockConnection"'
    r'|"(as_numpy|get_response)" is not a known attribute of "None"'
)


class Finding(NamedTuple):
    """An error that a checker found, or is to find. `message` is nothing to compare."""

    path: Path
    line: int
    code: str
    message: str = ""

    @property
    def place(self) -> tuple[Path, int, str]:
        """What of it is compared."""
        return self.path, self.line, self.code


def run_mypy(paths: Sequence[Path], root: Path) -> list[Finding]:
    """What `mypy --strict` says of the files, with pyproject.toml's settings."""
    command = [sys.executable, "-m", "mypy", "--output=json", *map(str, paths)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    if done.returncode not in (0, 1):
        raise RuntimeError(f"mypy: {done.stdout}{done.stderr}")
    said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return [
        Finding(root / each["file"], each["line"], each["code"], each["message"])
        for each in said
        if each["severity"] == "error" and not _OF_OTHERS.search(each["message"])
    ]


def run_pyright(paths: Sequence[Path], root: Path, folder: Path) -> list[Finding]:
    """What pyright says of the files. Its settings are written into the folder."""
    settings = {
        "typeCheckingMode": MODE,
        "include": [str(path) for path in paths],
        "exclude": [],
        "extraPaths": [str(root), str(folder)],
        "pythonVersion": "3.11",
        "reportMissingModuleSource": False,
        "reportUnusedCoroutine": "error",
    }
    project = folder / "pyrightconfig.json"
    project.write_text(json.dumps(settings))
    command = [sys.executable, "-m", "basedpyright", "--outputjson", "--pythonpath", sys.executable]
    done = subprocess.run(
        [*command, "--project", str(project)], cwd=root, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    if done.returncode not in (0, 1):
        raise RuntimeError(f"pyright: {done.stdout}{done.stderr}")
    said = json.loads(done.stdout)["generalDiagnostics"]
    return [
        Finding(Path(each["file"]), each["range"]["start"]["line"] + 1, each.get("rule", "error"), each["message"])
        for each in said
        if each["severity"] == "error" and not _OF_OTHERS.search(each["message"])
    ]


def expected_of(paths: Iterable[Path], checker: int) -> list[Finding]:
    """What the files say that a checker says of them: 1 for mypy, 2 for pyright."""
    return [
        Finding(path, number, code, "expected")
        for path in paths
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if (match := _EXPECTED.search(line)) is not None
        for code in match[checker].split()
    ]


def compare(found: Sequence[Finding], expected: Sequence[Finding], checker: str) -> list[str]:
    """A line for each error that is not expected, and for each that was and did not come."""
    wanted = {each.place for each in expected}
    there = {each.place for each in found}
    more = [f"{f.path}:{f.line}: {checker}: {f.message} [{f.code}]" for f in found if f.place not in wanted]
    missing = [f"{f.path}:{f.line}: {checker} is silent [{f.code}]" for f in expected if f.place not in there]
    return more + missing
