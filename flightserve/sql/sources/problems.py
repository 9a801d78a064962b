"""Files that cannot be served, and what is said of them: to the operator with the path as he gave it, on the wire with
the file's name alone."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from flightserve.errors import ConfigError

# Of what is left out, so much is named.
_NAMED_MAX: Final = 20


def shown(path: str) -> str:
    """A file in a message: its name alone."""
    name = os.path.basename(path.rstrip("/"))
    return name if name.isprintable() else ascii(name)


def as_given(file: str, given: str) -> str:
    """The file as the operator may know it: `given` is how he spelled the path that it was found at."""
    path = file if os.path.isabs(given) or "://" in file else os.path.relpath(file)
    return path if path.isprintable() else ascii(path)


class BadFile(ConfigError):
    """A file that cannot be served, and why: words that go on after its name."""

    def __init__(self, file: str, why: str) -> None:
        super().__init__(f"{shown(file)} {why}")
        self.file = file
        self.why = why


@dataclass(frozen=True, slots=True)
class SourceProblem:
    """What of a table is not served. `file` is "" where it is all of it; `given` is the path as the operator spelled
    it."""

    table: str
    why: str
    file: str = ""
    given: str = ""

    @property
    def place(self) -> tuple[str, str]:
        """What it is a problem of; the engine's words for one may differ from look to look."""
        return self.table, self.file

    @property
    def told(self) -> str:
        """For the operator."""
        return self._with(as_given(self.file, self.given) if self.file else "")

    @property
    def public(self) -> str:
        """For callers."""
        return self._with(shown(self.file) if self.file else "")

    def _with(self, file: str) -> str:
        return f"table {self.table!r}: {file} {self.why}" if file else f"table {self.table!r}: {self.why}"


class NothingThereError(ConfigError):
    """Nothing lies at a path. Its message is for the operator, `public` for callers."""

    def __init__(self, table: str, given: str) -> None:
        takes = "a path names a file (Parquet, CSV, JSON, Arrow, DuckDB, a workbook), a glob, a folder, or an address"
        super().__init__(f"table {table!r}: nothing lies at {given}; {takes}")
        self.public = f"table {table!r}: nothing lies at {shown(given)}"


class SourceError(ConfigError):
    """Raised where a problem is none to go on with, or several are. Its message is for the operator, `public` for
    callers."""

    def __init__(self, problem: SourceProblem, *others: SourceProblem) -> None:
        super().__init__(listed(each.told for each in (problem, *others)))
        self.problem = problem
        self.public = listed(each.public for each in (problem, *others))


class Leniency:
    """What becomes of what cannot be served: it is kept in `problems` and the rest is served; with `strict` raised."""

    def __init__(self, strict: bool = True) -> None:
        self.strict = strict
        self.problems: list[SourceProblem] = []

    def add(self, problem: SourceProblem, cause: BaseException | None = None) -> None:
        """Keep it. Raises SourceError where this is strict."""
        if self.strict:
            raise SourceError(problem) from cause
        if problem.place not in [each.place for each in self.problems]:
            self.problems.append(problem)

    def refuse_all(self) -> None:
        """Nothing is left to serve. Raises SourceError."""
        if self.problems:
            raise SourceError(*self.problems)


def listed(texts: Iterable[str]) -> str:
    """The texts in one, bounded."""
    every = list(texts)
    more = f"; and {len(every) - _NAMED_MAX} more" if len(every) > _NAMED_MAX else ""
    return "; ".join(every[:_NAMED_MAX]) + more


def public_text(error: BaseException, text: str) -> str:
    """What callers may read of the error, whose text for the operator this is."""
    if isinstance(error, OSError):
        # The rest names a file.
        return error.strerror or type(error).__name__
    return error.public if isinstance(error, (SourceError, NothingThereError)) else text
