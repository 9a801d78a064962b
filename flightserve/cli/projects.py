"""`flightserve init NAME`: a folder to begin in, with an app, its test, and what else a project has.

The files are those of the folder `project` beside this module, which the tests run, type-check and lint. Nothing is
written into a folder that has anything in it, but for a repository that begins as well.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterator
from importlib.metadata import requires, version
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from flightserve.errors import ConfigError

# What a project may be called on a package index; images are called the same, in small letters.
_NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?")
NAME_LENGTH_MAX: Final = 100
_ENDING: Final = ".in"
# Stored without their dot, so that they say nothing of the folder they are stored in.
_HIDDEN: Final = ("gitignore", "dockerignore")


def add_commands(commands: Any) -> None:
    """Add `init` to the parser's commands."""
    init = commands.add_parser("init", help="make a folder with an app to begin with: its code, test and container")
    init.set_defaults(command=_init)
    init.add_argument("path", metavar="NAME", help="the new project's folder; its name is the project's")


def _init(arguments: argparse.Namespace) -> int:
    folder = Path(arguments.path)
    written = make_project(folder, version("flightserve"))
    print(f"made {folder} with {', '.join(written)}")
    print(f"next: cd {folder} && flightserve run app:app --reload")
    return 0


def make_project(folder: Path, ours: str) -> list[str]:
    """Write the files, for the version of flightserve that is `ours`; returns their names. Raises ConfigError for a
    name that no project can have, and for a folder that has something in it or cannot be written."""
    name = Path(os.path.abspath(folder)).name
    _check_name(name)
    texts = {file: _filled(text, name, ours) for file, text in _templates()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if present := sorted(entry.name for entry in folder.iterdir() if entry.name != ".git"):
            raise ConfigError(f"{folder} is not empty: it has {present[0]}; name a folder that is new")
        for file, text in texts.items():
            (folder / file).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{folder} cannot be made: {error.strerror}") from error
    return sorted(texts)


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name) or len(name) > NAME_LENGTH_MAX:
        raise ConfigError(f"{name!r} is no name for a project; letters, digits, '-', '_' and '.' within make one")
    if _normal(name) in _taken_names():
        raise ConfigError(f"{name!r} is a package that flightserve needs; pip would put the project in its place")


def _taken_names() -> set[str]:
    needed = [re.split(r"[^A-Za-z0-9._-]", each, maxsplit=1)[0] for each in requires("flightserve") or ()]
    return {"flightserve", *map(_normal, needed)}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _templates() -> Iterator[tuple[str, str]]:
    for entry in files(__package__).joinpath("project").iterdir():
        name = entry.name.removesuffix(_ENDING)
        yield f".{name}" if name in _HIDDEN else name, entry.read_text("utf-8")


def _filled(text: str, name: str, ours: str) -> str:
    for mark, value in (("@NAME@", name), ("@IMAGE@", name.lower()), ("@VERSION@", ours)):
        text = text.replace(mark, value)
    return text
