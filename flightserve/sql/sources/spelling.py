"""Names and paths as the engine has to be given them."""

from __future__ import annotations

import glob

from flightserve.sql.sources.problems import BadFile


def quoted(text: str) -> str:
    """The text as an SQL string."""
    return "'" + text.replace("'", "''") + "'"


def quoted_name(name: str) -> str:
    """The name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def pattern_of(path: str) -> str:
    """What the engine, which takes every path for a glob, has to be given for this very file. It parts what is a glob
    at backslashes, too, so that there is no such text where a name has both."""
    if not glob.has_magic(path):
        return path
    if "\\" in path:
        raise BadFile(path, "cannot be opened by the engine: its path has a backslash and one of *?[; rename it")
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in path)
