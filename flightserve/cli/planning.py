"""The app as its modules say it now, planned in a process of its own: `python -m flightserve.cli.planning module:app`.

A process that has imported a module once cannot be trusted to import it anew, and a module that is being written may do
anything: so whoever reloads an app (`cli.reloading`) has it read here, each time by another process. Standard input has
one line, a `PlanWish` as JSON, and its end is ours: we do not outlive who asked. Standard output has one
`Planned`; what the app's modules print goes to standard error.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import traceback
from typing import BinaryIO

import msgspec

from flightserve import threads
from flightserve.cli.loading import load_app
from flightserve.cli.output import StdoutForPrograms
from flightserve.cli.settings.deployments import with_options
from flightserve.cli.settings.found import FoundOption
from flightserve.control.sources import place_of, read_modules
from flightserve.errors import FlightserveError

# Where Python's packages lie, also when that is below the current folder.
_INSTALLED = ("site-packages", "dist-packages")


class PlanWish(msgspec.Struct, frozen=True):
    """What is to be planned anew: the paths that `changed`, and what is set of single deployments."""

    changed: list[str]
    options: tuple[FoundOption, ...] = ()


class Planned(msgspec.Struct, array_like=True):
    """What can be deployed (`control.messages.Deploy.deployments`), or why nothing can. `files`: the modules that were
    read below the current folder, or looked for there."""

    files: list[str]
    deployments: bytes = b""
    problem: str = ""
    detail: str = ""


def plan(target: str, wish: PlanWish) -> Planned:
    """Import and plan it. A file that changed and was not imported is one that replicas import later, so that all of
    them are to be replaced."""
    try:
        from flightserve.running import plan_deployments

        app = with_options(load_app(target), wish.options)
        files = module_files()
        deployments = plan_deployments(app, everything=not set(wish.changed) <= set(files))
        return Planned(files, pickle.dumps(deployments))
    except FlightserveError as error:
        return Planned(_touched(error), problem=error.message, detail=getattr(error, "detail", ""))
    except BaseException as error:
        # SystemExit, and whatever else is no error: a module that is being written may raise it.
        said = f"{place_of(error) or target}: {type(error).__name__}: {error}"
        return Planned(_touched(error), problem=said.rstrip(": "), detail=traceback.format_exc())


def module_files() -> list[str]:
    """The modules of this process that lie below the current folder."""
    return [source.path for source in read_modules() if _is_below(source.path)]


def _is_below(path: str) -> bool:
    return path.startswith(os.path.join(os.getcwd(), "")) and not any(place in path for place in _INSTALLED)


def _touched(error: BaseException | None) -> list[str]:
    """A module that fails is forgotten by Python, but its error names it; one that is not there may come."""
    found = module_files()
    while error is not None:
        found += [os.path.abspath(frame.filename) for frame in traceback.extract_tb(error.__traceback__)]
        if isinstance(error, SyntaxError) and error.filename:
            found.append(os.path.abspath(error.filename))
        if isinstance(error, ModuleNotFoundError) and error.name:
            missing = os.path.join(os.getcwd(), *error.name.split("."))
            found += [f"{missing}.py", os.path.join(missing, "__init__.py")]
        error = error.__cause__
    return [path for path in found if _is_below(path)]


def _open_input() -> BinaryIO:
    """What was standard input; modules that read theirs find it empty."""
    ours = os.fdopen(os.dup(0), "rb", buffering=0)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    return ours


def _end_all() -> None:
    """This process, which leads its session, and what the app's modules started: a thread would keep it, and who reads
    our answer to its end would wait for a child."""
    os.killpg(os.getpid(), signal.SIGKILL)


def main(target: str) -> None:
    """Answer once."""
    asked = _open_input()
    wish = msgspec.json.decode(asked.readline(), type=PlanWish)

    def end_with_who_asked() -> None:
        asked.read()
        _end_all()

    threads.start("flightserve-planning", end_with_who_asked)
    with StdoutForPrograms() as out:
        out.buffer.write(msgspec.msgpack.encode(plan(target, wish)))
        out.flush()
        _end_all()


if __name__ == "__main__":
    main(sys.argv[1])
